-- The peers of gateways, for `plait sync IFACE postgres://…` (docs/fleet.md). PostgreSQL 13 or later.
--
--   createdb vpn && psql -d vpn -f postgresql.sql
--
-- Write to plait.peer alone, by insert, update and delete: triggers do the rest. A gateway needs
-- the role plait_reader and no other right:
--
--   create role gateway1 login;
--   grant plait_reader to gateway1;

begin;

create schema plait;

create table plait.peer (
    public_key text primary key
        check (public_key ~ '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$'),
    allowed_ips cidr[] not null default '{}',
    preshared_key text
        check (preshared_key ~ '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$'),
    endpoint text,                         -- 192.0.2.7:51820, of a peer with a fixed place; else null
    keepalive integer not null default 0 check (keepalive between 0 and 65535),  -- seconds
    rev bigint not null                    -- kept by a trigger; what is written here is replaced
);
create unique index peer_rev on plait.peer (rev);

-- Peers that were deleted. prune() forgets those of long ago.
create table plait.gone (
    public_key text primary key,
    rev bigint not null,
    at timestamptz not null default now()
);
create unique index gone_rev on plait.gone (rev);

-- Whose each prefix is, so that no prefix is two peers'. Checked at commit: prefixes may change hands.
create table plait.allowed_ip (
    prefix cidr,
    public_key text not null,
    constraint one_peer_for_each_prefix primary key (prefix) deferrable initially deferred
);

-- id: another one tells gateways that their positions are worth nothing here. After this database was
-- restored from a backup: update plait.store set id = gen_random_uuid();
-- pruned: greatest rev of a deletion that was forgotten.
create table plait.store (
    layout integer primary key default 1 check (layout = 1),
    id uuid not null default gen_random_uuid(),
    pruned bigint not null default 0
);
insert into plait.store default values;

create sequence plait.rev;

-- One writer at a time, from the first row until its commit. Else a smaller rev could become visible
-- behind a greater one, and a gateway that has read the greater one would never see it.
create function plait.await_turn() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock('plait.rev'::regclass::oid::bigint);
    return null;
end $$;

create function plait.number() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        new.rev := old.rev;
        if new is not distinct from old then
            return new;
        end if;
    end if;
    new.rev := nextval('plait.rev');
    return new;
end $$;

create function plait.keep() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op <> 'INSERT' then
        delete from plait.allowed_ip a
            where a.prefix = any (old.allowed_ips) and a.public_key = old.public_key;
        if tg_op = 'DELETE' or old.public_key <> new.public_key then
            insert into plait.gone values (old.public_key, nextval('plait.rev'))
                on conflict (public_key) do update set rev = excluded.rev, at = excluded.at;
        end if;
    end if;
    if tg_op <> 'DELETE' then
        insert into plait.allowed_ip
            select distinct prefix, new.public_key from unnest(new.allowed_ips) as prefix;
        delete from plait.gone g where g.public_key = new.public_key;
    end if;
    return null;
end $$;

create function plait.keep_all() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock('plait.rev'::regclass::oid::bigint);
    insert into plait.gone select public_key, nextval('plait.rev') from plait.peer
        on conflict (public_key) do update set rev = excluded.rev, at = excluded.at;
    delete from plait.allowed_ip;
    return null;
end $$;

-- A bell: gateways look at once, and each second without it.
create function plait.ring() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('plait_peer', '');
    return null;
end $$;

create trigger a_turn before insert or update or delete on plait.peer
    for each statement execute function plait.await_turn();
create trigger number before insert or update on plait.peer
    for each row execute function plait.number();
create trigger keep after insert or update or delete on plait.peer
    for each row execute function plait.keep();
create trigger keep_all before truncate on plait.peer
    for each statement execute function plait.keep_all();
create trigger ring after insert or update or delete or truncate on plait.peer
    for each statement execute function plait.ring();

-- Forget deletions that are older. A gateway that was away for longer reads the whole table.
create function plait.prune(age interval default '7 days') returns bigint
language sql set search_path = pg_catalog, pg_temp as $$
    with old as (delete from plait.gone where at < now() - age returning rev)
    update plait.store set pruned = greatest(pruned, (select max(rev) from old)) returning pruned;
$$;

do $$ begin
    create role plait_reader nologin;
exception when duplicate_object then
    null;  -- of another database of this server
end $$;
grant usage on schema plait to plait_reader;
grant select on plait.peer, plait.gone, plait.store to plait_reader;
revoke execute on function plait.prune(interval) from public;

commit;
