"""The words of each event: what happened, why, and what to do next.

Words in braces are filled in from the event: {from} is " from ADDRESS:PORT (unproven)", since anybody can
write any source on a packet that is refused; {peer} is the start of a public key, {at} " at ADDRESS:PORT".
Some causes cannot be told apart from here; then the likelier one stands first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workers.control.events import Event


class Words(NamedTuple):
    """The three parts; of what is just as it should be, `why` and `next` are empty."""

    what: str
    why: str = ""
    next: str = ""


WORDS: Final[dict[Event, Words]] = {
    Event.MESSAGE_LENGTH: Words(
        "a handshake message{from} refused",
        "its length or type is none that the protocol has",
        "it was damaged, or something else than WireGuard is sent to this port",
    ),
    Event.MAC1_WRONG: Words(
        "{message}{from} refused",
        "its mac1 was made for another public key",
        "check the PublicKey that this peer has configured for us against ours (plait show)",
    ),
    Event.NO_KEY_TO_ANSWER: Words(
        "{message}{from} refused",
        "this interface has no private key",
        "set one: wg set {interface} private-key FILE",
    ),
    Event.ARRIVED_WHILE_DOWN: Words(
        "{message}{from} refused",
        "the interface is down",
        "ip link set {interface} up",
    ),
    Event.UNDER_LOAD: Words(
        "under load: {count} handshake messages wait, or were in vain within a second",
        "more come than can be answered at once, as in a flood or after many peers restarted",
        "nothing is needed: senders are asked to prove their address until it is over",
    ),
    Event.COOKIE_ASKED: Words(
        "{message}{from} put off with a cookie reply",
        "we are under load, and it did not prove its address",
        "a peer does so with its next try, 5 s later; if it never succeeds, look at its way back",
    ),
    Event.RATE_LIMITED: Words(
        "{message} from {source} refused",
        "more than 20 a second came from that address while we are under load",
        "peers behind one address share this; else somebody there sends too many",
    ),
    Event.LOW_ORDER: Words(
        "{message}{from} refused",
        "a public key in it is of low order, and nothing would be secret",
        "no honest peer makes such a key; look at who sends it",
    ),
    Event.INITIATION_TAG: Words(
        "initiation{from} refused",
        "it does not decrypt{claiming}: altered on its way, or forged by who knows our public key",
        "if it goes on, look at the path; a peer in order never causes it",
    ),
    Event.UNKNOWN_PEER: Words(
        "initiation{from} refused",
        "it shows the public key {claimed_key}, which no peer of {interface} has",
        "add it if you know it (wg set {interface} peer KEY allowed-ips …), "
        "or check the PrivateKey of the other side",
    ),
    Event.LOOKUP_REFUSED: Words(
        "initiation{from} refused",
        "the provider of peers does not know the public key {claimed_key}",
        "add it to what the provider looks in if you know it, or check the PrivateKey of the other side",
    ),
    Event.LOOKUP_UNANSWERED: Words(
        "initiation{from} refused",
        "the provider of peers was asked about {claimed_key}, and no such peer was set within 5 s",
        "the other side tries again; if it goes on, look at the provider's log and at what it looks in",
    ),
    Event.LOOKUP_HELD_BACK: Words(
        "initiation{from} refused",
        "about {claimed_key} nobody was asked: more unknown keys come than may be asked about at once",
        "the other side tries again; a faster provider or a larger window helps (plait show --engine)",
    ),
    Event.TIMESTAMP_REPLAYED: Words(
        "initiation of {peer}{from} refused",
        "its timestamp is not later than the last: the clock of this peer went back, two hosts use its key, "
        "or somebody replays it",
        "check that peer's clock, and that its private key is on one host only",
    ),
    Event.TIMESTAMP_TOO_OLD: Words(
        "initiation of {peer}{from} refused",
        "it is on demand, its last timestamp is not known, and this one is 5 minutes old, or older than the "
        "engine's control process: a replay, or a clock that is wrong",
        "its next try is later; if it goes on, check the clocks of both sides, or have the provider give "
        "plait_timestamp",
    ),
    Event.INITIATION_FLOOD: Words(
        "initiation of {peer}{from} refused",
        "it came less than 20 ms after the one before",
        "two hosts may use this key; a peer waits 5 s between its tries",
    ),
    Event.RAN_OUT: Words(
        "initiation of {peer}{from} refused",
        "its quota is used up, or its time is over (plait show says which)",
        "give it a larger quota or a later expiry if it may go on (docs/quotas.md)",
    ),
    Event.NO_ROOM_TO_ANSWER: Words(
        "initiation of {peer}{from} refused",
        "there is no room for another session: {reason}",
        "{mend}",
    ),
    Event.RESPONSE_UNKNOWN: Words(
        "response{from} refused",
        "it answers no handshake that is in progress: it came too late, twice, or from before a restart",
        "nothing is needed unless it goes on; then the way there and back takes longer than 5 s",
    ),
    Event.RESPONSE_TAG: Words(
        "response of {peer}{from} refused",
        "it does not decrypt: most likely the preshared keys of the two sides differ",
        "compare PresharedKey on both sides: the same on both, or none on both",
    ),
    Event.COOKIE_UNEXPECTED: Words(
        "cookie reply{from} refused",
        "it answers nothing that we sent",
        "nothing is needed: late, or sent twice, or forged",
    ),
    Event.COOKIE_TAG: Words(
        "cookie reply{from} refused",
        "it does not decrypt: altered, or made by somebody who is not this peer",
        "check the PublicKey that we have configured for the peer there",
    ),
    Event.MAILBOX_FULL: Words(
        "handshake messages dropped unseen ({count})",
        "more came than control can take",
        "a flood: those of peers come again; if it goes on, filter its sources before this host",
    ),
    Event.PACKETS_OF_NO_SESSION: Words(
        "packets from outside dropped ({count})",
        "they name no session of ours: a peer still uses one from before a restart or change here, "
        "or from before it ran out",
        "nothing is needed: a peer that hears no answer begins a new session after 15 s",
    ),
    Event.PACKETS_DAMAGED: Words(
        "packets from outside dropped ({count})",
        "they name a session of ours and do not decrypt: damaged on the way, or forged",
        "look at the path if it goes on",
    ),
    Event.PACKETS_NO_PEER: Words(
        "packets from inside dropped ({count})",
        "no peer's AllowedIPs contain their destination",
        "compare the routes into {interface} (ip route) with AllowedIPs (plait show {interface} allowed-ips)",
    ),
    Event.PACKETS_NO_ENDPOINT: Words(
        "packets from inside{to} dropped ({count})",
        "it is not known where that peer is: it has no Endpoint and has not been heard of",
        "give it an Endpoint, or have the other side begin (PersistentKeepalive there)",
    ),
    Event.PACKETS_WRONG_SOURCE: Words(
        "packets from a peer dropped after they were decrypted ({count})",
        "their inner source is not among the AllowedIPs that we have for that peer",
        "add it to AllowedIPs here, or mend the address that the other side sends from",
    ),
    Event.PACKETS_NOT_SENT: Words(
        "packets to peers dropped ({count})",
        "the kernel did not take them",
        "look at the route to the endpoint (ip route get …) and at the firewall's output rules; "
        "plait show --engine says which of drop_udp_send, drop_udp_full and drop_no_socket grew",
    ),
    Event.PACKETS_LOOPED: Words(
        "packets to {peer}{at} dropped ({count})",
        "they came back into a tunnel: the route to that endpoint ({reason}) leads through {interface} "
        "itself, or through a tunnel that leads into it",
        "give the endpoint a route of its own (ip route get …), or a FwMark with a rule for it",
    ),
    Event.NO_PRIVATE_KEY: Words(
        "no handshake with {peer}",
        "this interface has no private key",
        "set one: wg set {interface} private-key FILE",
    ),
    Event.NO_ENDPOINT: Words(
        "no handshake with {peer}",
        "it is not known where it is: it has no Endpoint and has not been heard of",
        "give it an Endpoint, or have the other side begin (PersistentKeepalive there)",
    ),
    Event.PEER_KEY_USELESS: Words(
        "no handshake with {peer}",
        "its public key is of low order, and nothing would be secret",
        "configure the key that `wg pubkey` gives on the other side",
    ),
    Event.NO_ROOM_TO_BEGIN: Words(
        "no handshake with {peer}",
        "there is no room for another session: {reason}",
        "{mend}",
    ),
    Event.NO_ROOM: Words(
        "a change of the configuration of {interface} refused as a whole",
        "there is no room: {reason}",
        "{mend}",
    ),
    Event.SET_REFUSED: Words(
        "a change of the configuration of {interface} refused as a whole",
        "{reason}",
        "{mend}",
    ),
    Event.SEND_FAILED: Words(
        "handshake message to {peer}{at} not sent",
        "the kernel says: {reason}",
        "look at the route to it (ip route get …) and at the firewall's output rules",
    ),
    Event.UNANSWERED: Words(
        "another initiation to {peer}{at}",
        "{tries} before it not answered in 5 s: nobody listens there, a firewall drops it, or it is refused",
        "check Endpoint here and ListenPort there, UDP on the path, and our public key there; "
        "the other side's events say if it arrives",
    ),
    Event.GIVEN_UP: Words(
        "handshake with {peer}{at} given up",
        "{tries} initiations were not answered",
        "check Endpoint here and ListenPort there, UDP on the path, and our public key there; "
        "the next packet to it begins anew",
    ),
    Event.UNCONFIRMED: Words(
        "{peer}{at} begins anew",
        "it took up no session that we offered ({tries}): our answers get lost, or the preshared keys differ",
        "check the way back to it (firewall, NAT), and compare PresharedKey on both sides",
    ),
    Event.GATEWAY_DEAD: Words(
        "gateway {reason} of this key is dead",
        "it has not beaten in the store that `plait sync --knock` shares with it",
        "its clients begin here when they knock; start it again, or see why it does not reach the store",
    ),
    Event.PROVIDER_GONE: Words(
        "the provider of peers is gone",
        "{reason}",
        "start it again; until then unknown peers are refused, unless another provider stands by",
    ),
    Event.PROVIDER_WRONG: Words(
        "the provider of peers said something wrong",
        "{reason}",
        "{mend}",
    ),
    Event.WORKER_DIED: Words(
        "the process {worker} died",
        "{reason}",
        "nothing is needed: another takes its place, and what it left was repaired ({repaired}); "
        "the engine's log has its last words",
    ),
    Event.WORKER_NOT_REPLACED: Words(
        "the process {worker} does not come back so far",
        "{reason}",
        "it is tried again in {pause} s; if it goes on, look at its log and at this host's memory",
    ),
    Event.SET_GIVEN_UP: Words(
        "a configuration was given up",
        "the control process died {tries} times while it applied it; {reason}",
        "compare `plait show` with what was meant and set what is missing; the engine's log has the cause",
    ),
    Event.PEER_LEFT_OUT: Words(
        "{peer} was left out",
        "the control process died {tries} times at it ({reason})",
        "configure this peer again; the engine's log has the cause",
    ),
    Event.STEP_GIVEN_UP: Words(
        "{reason}: given up",
        "the control process died of that {tries} times",
        "if peers miss their sessions or endpoints, set them again; the engine's log has the cause",
    ),
    Event.HANDSHAKE_BEGUN: Words("initiation sent to {peer}{at}"),
    Event.HANDSHAKE_ANSWERED: Words("{peer}{at} began a handshake, which was answered"),
    Event.HANDSHAKE_COMPLETE: Words("handshake with {peer}{at} complete ({reason})"),
    Event.KNOCKED: Words("{peer} may have knocked{from}: a dead gateway's session; initiation sent there"),
    Event.GATEWAY_BACK: Words("gateway {reason} of this key is not taken for dead any more"),
    Event.COOKIE_RECEIVED: Words(
        "{peer}{at} put us off with a cookie",
        "that side is under load",
        "nothing is needed: the next initiation carries the cookie",
    ),
    Event.ENDPOINT_MOVED: Words("{peer} is{at} now{was}"),
    Event.KEYS_EXPIRED: Words(
        "session with {peer} expired",
        "it is 180 s old, and no packets asked for another",
        "nothing is needed: the next packet begins one",
    ),
    Event.KEYS_ZEROED: Words(
        "keys of {peer} wiped",
        "nothing new was agreed for 540 s",
        "nothing is needed: the next packet begins a session",
    ),
    Event.PROVIDER_SERVES: Words("a provider of peers is asked about unknown keys from now on"),
    Event.PEER_ADDED: Words("peer {peer} added"),
    Event.PEER_EVICTED: Words("peer {peer} was idle, and went back to the provider"),
    Event.PEER_RAN_OUT: Words(
        "{peer} was cut off",
        "{reason}",
        "a larger quota or a later expiry lets it in again (docs/quotas.md)",
    ),
    Event.PEER_RENEWED: Words("{peer} may talk again: it has another quota or expiry"),
    Event.PEER_REMOVED: Words("peer {peer} removed"),
    Event.PRIVATE_KEY_CHANGED: Words(
        "our public key is {public_key}",
        "the private key was set",
        "every peer must have that PublicKey for us",
    ),
    Event.PRIVATE_KEY_REMOVED: Words(
        "the private key was removed",
        "it was set to nothing",
        "no handshake is possible until there is one",
    ),
    Event.LISTEN_PORT_CHANGED: Words("the listen port is {count} now"),
    Event.INTERFACE_UP: Words("the interface is up"),
    Event.INTERFACE_DOWN: Words(
        "the interface is down",
        "ip link set {interface} down, or the like",
        "all sessions ended; ip link set {interface} up",
    ),
    Event.WORKER_REPLACED: Words("{worker} works again after {away} s, incarnation {incarnation}"),
    Event.NUMBERS_CHANGED: Words("{receivers} receivers and {consumers} consumers run now"),
    Event.UPGRADED: Words("the engine was upgraded to the program that {reason} starts now"),
    Event.STARTED: Words("the engine started"),
    Event.RESTARTED: Words(
        "the control process was restarted; events before this one are lost",
        "it died, was killed, or gave way to a new version (SIGUSR2)",
        "the events with it say which; sessions and peers are as they were",
    ),
    Event.ENDING: Words("the engine ends", "{reason}", "start it again: plaitd {interface}"),
}
