-- What gateways of one key tell each other, for `plait sync IFACE postgres://… --knock` (docs/fleet.md).
-- Beside the tables of postgresql.sql, in the same database:
--
--   psql -d vpn -f postgresql-knock.sql
--
-- A gateway that knocks needs the role plait_gateway, which may read peers as well:
--
--   grant plait_gateway to gateway1;

begin;

-- Unlogged: a beat costs the server no write to its disk that anybody waits for. A crash of the server empties
-- both, and gateways fill them again.
create unlogged table plait.gateway (
    number smallint primary key check (number between 0 and 255),
    instance text not null check (length(instance) between 1 and 64),  -- one life of one engine
    beat timestamptz not null
);

-- Sessions that began between two beats: of each the receiver index and the first four bytes of its peer's
-- public key, both as they are on the wire. None is of use 180 s later.
create unlogged table plait.session (
    gateway smallint not null,
    at timestamptz not null default clock_timestamp(),
    sessions bytea not null check (length(sessions) % 8 = 0 and length(sessions) <= 1048576)
);
create index session_of_gateway on plait.session (gateway, at);

-- A gateway is alive, and has these new sessions. Gives every gateway, and for how many seconds it was silent by
-- the clock of this server. Where its own number is given with another instance, that one has beaten lately:
-- nothing was noted.
create function plait.beat(mine smallint, me text, added bytea default '')
returns table (number smallint, instance text, silent double precision)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    moment constant timestamptz := clock_timestamp();
    is_mine boolean;
begin
    insert into plait.gateway as g values (mine, me, moment)
        on conflict on constraint gateway_pkey do update set instance = excluded.instance, beat = excluded.beat
        where g.instance = me or g.beat < moment - interval '10 seconds'
        returning true into is_mine;
    if is_mine and added <> '' then
        insert into plait.session (gateway, sessions) values (mine, added);
        delete from plait.session s where s.gateway = mine and s.at < moment - interval '200 seconds';
    end if;
    return query select g.number, g.instance, extract(epoch from moment - g.beat)::double precision
        from plait.gateway g;
end $$;

do $$ begin
    create role plait_gateway nologin;
exception when duplicate_object then
    null;  -- of another database of this server
end $$;
grant plait_reader to plait_gateway;
grant usage on schema plait to plait_gateway;
grant select on plait.gateway, plait.session to plait_gateway;
revoke execute on function plait.beat(smallint, text, bytea) from public;
grant execute on function plait.beat(smallint, text, bytea) to plait_gateway;

commit;
