#include "text.h"

#include <arpa/inet.h>
#include <string.h>

static char *put_text(char *to, const char *text)
{
    uint64_t bytes = strlen(text);

    memcpy(to, text, bytes);
    return to + bytes;
}

static char *put_number(char *to, uint64_t number)
{
    char digits[20];
    int at = sizeof digits;

    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(to, digits + at, sizeof digits - (uint64_t)at);
    return to + (sizeof digits - (uint64_t)at);
}

static char *put_key(char *to, const uint8_t key[32])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < 32; i++) {
        *to++ = digits[key[i] >> 4];
        *to++ = digits[key[i] & 15];
    }
    *to++ = '\n';
    return to;
}

static char *put_address(char *to, const uint8_t *address, uint32_t bytes)
{
    if (bytes == 16) {
        inet_ntop(AF_INET6, address, to, INET6_ADDRSTRLEN);
        return to + strlen(to);
    }
    for (int part = 0; part < 4; part++) {
        if (part)
            *to++ = '.';
        to = put_number(to, address[part]);
    }
    return to;
}

static char *put_endpoint(char *to, const struct uapi_shown *shown)
{
    int is_ipv6 = shown->address_bytes == 16;

    to = put_text(to, is_ipv6 ? "endpoint=[" : "endpoint=");
    to = put_address(to, shown->address, shown->address_bytes);
    if (is_ipv6) {
        if (*shown->zone) {
            *to++ = '%';
            to = put_text(to, shown->zone);
        }
        *to++ = ']';
    }
    *to++ = ':';
    to = put_number(to, shown->port);
    *to++ = '\n';
    return to;
}

static char *put_line(char *to, const char *key, uint64_t number)
{
    to = put_number(put_text(to, key), number);
    *to++ = '\n';
    return to;
}

/* Lines are printable ASCII: every other byte, and %, as % and two digits. */
static char *put_name(char *to, const uint8_t *name, uint32_t bytes)
{
    static const char digits[] = "0123456789ABCDEF";

    to = put_text(to, "plait_name=");
    for (uint32_t i = 0; i < bytes; i++) {
        if (name[i] >= ' ' && name[i] <= '~' && name[i] != '%') {
            *to++ = (char)name[i];
            continue;
        }
        *to++ = '%';
        *to++ = digits[name[i] >> 4];
        *to++ = digits[name[i] & 15];
    }
    *to++ = '\n';
    return to;
}

uint32_t uapi_write_peer(char *to, const struct uapi_shown *shown)
{
    char *start = to;

    to = put_key(put_text(to, "public_key="), shown->public_key);
    to = put_key(put_text(to, "preshared_key="), shown->preshared_key);
    to = put_text(to, "protocol_version=1\n");
    if (shown->address_bytes)
        to = put_endpoint(to, shown);
    to = put_line(to, "last_handshake_time_sec=", shown->handshake_sec);
    to = put_line(to, "last_handshake_time_nsec=", shown->handshake_nsec);
    to = put_line(to, "tx_bytes=", shown->tx_bytes);
    to = put_line(to, "rx_bytes=", shown->rx_bytes);
    for (uint32_t i = 0; i < UAPI_NUMBERS_COUNT; i++)
        if (i == UAPI_KEEPALIVE || shown->numbers[i])  /* Plait's own only where they are set */
            to = put_line(put_text(to, uapi_number(i)->key), "=", shown->numbers[i]);
    if (shown->name_bytes)
        to = put_name(to, shown->name, shown->name_bytes);
    if (shown->ran_out) {
        to = put_text(put_text(to, "plait_ran_out="), shown->ran_out);
        *to++ = '\n';
    }
    return (uint32_t)(to - start);
}

uint32_t uapi_write_allowed(char *to, const uint8_t *address, uint32_t bits, uint32_t cidr)
{
    char *start = to;

    to = put_address(put_text(to, "allowed_ip="), address, bits / 8);
    *to++ = '/';
    to = put_number(to, cidr);
    *to++ = '\n';
    return (uint32_t)(to - start);
}
