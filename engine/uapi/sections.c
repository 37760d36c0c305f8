#include "sections.h"

#include <arpa/inet.h>
#include <string.h>

#define ADDRESS_TEXT 46        /* the longest IPv6 address and its end */
#define MOST_ALLOWED (1u << 16) /* in one section; more are left to Python */

#define NUMBER_ROW(place, key, field, most) { key, #field, most, most > 0xffffffff ? 8 : most > 0xffff ? 4 \
                                                                                                       : 2 },
static const struct uapi_number numbers[] = { UAPI_NUMBERS(NUMBER_ROW) };
_Static_assert(UAPI_NUMBERS_COUNT <= UAPI_NUMBERS_MOST, "make room in struct uapi_shown and UAPI_PEER_TEXT");
#define NUMBER_KEY(place, key, ...) _Static_assert(sizeof key <= 51, "make room in UAPI_PEER_TEXT");
UAPI_NUMBERS(NUMBER_KEY)

const struct uapi_number *uapi_number(uint32_t place)
{
    return place < UAPI_NUMBERS_COUNT ? &numbers[place] : NULL;
}

/* A line without its end. */
struct line {
    const uint8_t *text;
    uint64_t bytes;
};

/* A section as it is gathered. */
struct section {
    uint8_t public_key[32];
    uint8_t preshared_key[32];
    uint8_t endpoint[RECORD_ENDPOINT_BYTES];
    uint16_t flags;
    uint64_t numbers[UAPI_NUMBERS_COUNT];
    struct line name;
    uint32_t allowed;    /* kept, of those given */
    uint32_t given;
};

/* True, and `value` is what follows the key, when the line begins with `key` ("endpoint="). */
static int has_key(struct line line, const char *key, struct line *value)
{
    uint64_t length = strlen(key);

    if (line.bytes < length || memcmp(line.text, key, length) != 0)
        return 0;
    value->text = line.text + length;
    value->bytes = line.bytes - length;
    return 1;
}

static int is_word(struct line value, const char *word)
{
    return value.bytes == strlen(word) && memcmp(value.text, word, value.bytes) == 0;
}

static int digit_of(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int take_key(struct line value, uint8_t key[32])
{
    if (value.bytes != 64)
        return 0;
    for (int i = 0; i < 32; i++) {
        int high = digit_of(value.text[2 * i]), low = digit_of(value.text[2 * i + 1]);
        if (high < 0 || low < 0)
            return 0;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return 1;
}

static int take_number(struct line value, uint64_t most, uint64_t *number)
{
    uint64_t sum = 0;

    if (value.bytes == 0 || value.bytes > 19) /* 10^19 - 1 is below 2^64 */
        return 0;
    for (uint64_t i = 0; i < value.bytes; i++) {
        if (value.text[i] < '0' || value.text[i] > '9')
            return 0;
        sum = sum * 10 + (uint64_t)(value.text[i] - '0');
    }
    *number = sum;
    return sum <= most;
}

/* Four numbers without leading zeros, as inet_pton wants them. */
static int take_ipv4(struct line value, uint8_t address[16])
{
    uint64_t at = 0;

    for (int part = 0; part < 4; part++) {
        uint32_t number = 0, digits = 0;
        if (part && (at >= value.bytes || value.text[at++] != '.'))
            return 0;
        for (; at < value.bytes && value.text[at] >= '0' && value.text[at] <= '9'; at++) {
            if (digits++ && number == 0)
                return 0;
            number = number * 10 + (value.text[at] - '0');
            if (number > 255)
                return 0;
        }
        if (!digits)
            return 0;
        address[part] = (uint8_t)number;
    }
    return at == value.bytes;
}

static int take_ipv6(struct line value, uint8_t address[16])
{
    char text[ADDRESS_TEXT];

    if (value.bytes >= sizeof text || memchr(value.text, 0, value.bytes))
        return 0;
    memcpy(text, value.text, value.bytes);
    text[value.bytes] = 0;
    return inet_pton(AF_INET6, text, address) == 1;
}

/* The place of the first or last `wanted`, or value.bytes. */
static uint64_t find(struct line value, uint8_t wanted, int last)
{
    const uint8_t *found = value.bytes == 0 ? NULL
                           : last           ? memrchr(value.text, wanted, value.bytes)
                                            : memchr(value.text, wanted, value.bytes);
    return found ? (uint64_t)(found - value.text) : value.bytes;
}

static int take_endpoint(struct line value, struct section *section)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    uint8_t *to = section->endpoint;
    uint64_t colon = find(value, ':', 1);
    uint64_t port;

    if (colon == value.bytes ||
        !take_number((struct line){ value.text + colon + 1, value.bytes - colon - 1 }, 0xffff, &port) || !port)
        return 0;
    memset(to, 0, RECORD_ENDPOINT_BYTES);
    struct line host = { value.text, colon };
    if (take_ipv4(host, to)) {
        to[18] = 4;
    } else {
        if (colon < 2 || host.text[0] != '[' || host.text[colon - 1] != ']' ||
            !take_ipv6((struct line){ host.text + 1, colon - 2 }, to))
            return 0;
        to[18] = 16;
        if (memcmp(to, mapped, sizeof mapped) == 0) { /* it means an IPv4 address: values.py, endpoint_of */
            memcpy(to, to + 12, 4);
            memset(to + 4, 0, 12);
            to[18] = 4;
        }
    }
    to[16] = (uint8_t)port;
    to[17] = (uint8_t)(port >> 8);
    section->flags |= RECORD_ENDPOINT;
    return 1;
}

static int take_allowed(struct line value, uint8_t to[RECORD_ALLOWED_BYTES])
{
    int removed = value.bytes && value.text[0] == '-';
    struct line rest = { value.text + removed, value.bytes - removed };
    uint64_t slash = find(rest, '/', 0);
    uint32_t bits = 32;
    uint64_t cidr;

    memset(to, 0, RECORD_ALLOWED_BYTES);
    if (!take_ipv4((struct line){ rest.text, slash }, to)) {
        memset(to, 0, 4);  /* of what looked like one */
        bits = 128;
        if (!take_ipv6((struct line){ rest.text, slash }, to))
            return 0;
    }
    if (slash == rest.bytes ||
        !take_number((struct line){ rest.text + slash + 1, rest.bytes - slash - 1 }, bits, &cidr))
        return 0;
    for (uint32_t place = (uint32_t)cidr; place < bits; place += 8 - place % 8)
        to[place / 8] &= (uint8_t)~(0xff >> place % 8);
    to[16] = (uint8_t)cidr;
    to[17] = (uint8_t)((bits == 128 ? ALLOWED_IPV6 : 0) | (removed ? ALLOWED_REMOVED : 0));
    return 1;
}

/* A name that needs no escapes. */
static int take_name(struct line value, struct section *section)
{
    if (value.bytes > NAME_MOST)
        return 0;
    for (uint64_t i = 0; i < value.bytes; i++)
        if (value.text[i] < ' ' || value.text[i] > '~' || value.text[i] == '%')
            return 0;
    section->name = value;
    section->flags |= RECORD_NAME;
    return 1;
}

/* One line after the public key; allowed IPs go to where they will stand if nothing else does before
 * them. 0 when it is out of the ordinary. */
static int take_line(struct line line, struct section *section, uint8_t *ips)
{
    struct line value;
    if (has_key(line, "allowed_ip=", &value)) {
        if (section->given++ == MOST_ALLOWED)
            return 0;
        return take_allowed(value, ips + RECORD_ALLOWED_BYTES * (uint64_t)section->allowed++);
    }
    if (has_key(line, "replace_allowed_ips=", &value)) {
        section->flags |= RECORD_REPLACE;
        section->allowed = 0;  /* it forgets those before it */
        return is_word(value, "true");
    }
    if (has_key(line, "endpoint=", &value))
        return take_endpoint(value, section);
    if (has_key(line, "preshared_key=", &value)) {
        section->flags |= RECORD_PSK;
        return take_key(value, section->preshared_key);
    }
    for (uint32_t i = 0; i < UAPI_NUMBERS_COUNT; i++)
        if (has_key(line, numbers[i].key, &value) && value.bytes && *value.text == '=') {
            section->flags |= (uint16_t)(RECORD_NUMBER << i);
            return take_number((struct line){ value.text + 1, value.bytes - 1 }, numbers[i].most,
                               &section->numbers[i]);
        }
    if (has_key(line, "plait_name=", &value))
        return take_name(value, section);
    if (has_key(line, "remove=", &value)) {
        section->flags |= RECORD_REMOVE;
        return is_word(value, "true");
    }
    if (has_key(line, "update_only=", &value)) {
        section->flags |= RECORD_UPDATE_ONLY;
        return is_word(value, "true");
    }
    return has_key(line, "protocol_version=", &value) && is_word(value, "1");
}

static uint8_t *put(uint8_t *to, const void *from, uint64_t bytes)
{
    memcpy(to, from, bytes);
    return to + bytes;
}

/* The record's bytes. ips: the allowed IPs, which stand behind where everything else may reach. */
static uint64_t write_record(uint8_t *record, const struct section *section, const uint8_t *ips)
{
    uint8_t *to = put(record, section->public_key, 32);

    *to++ = (uint8_t)section->flags;
    *to++ = (uint8_t)(section->flags >> 8);
    for (int i = 0; i < 4; i++)
        *to++ = (uint8_t)(section->allowed >> 8 * i);
    if (section->flags & RECORD_PSK)
        to = put(to, section->preshared_key, 32);
    if (section->flags & RECORD_ENDPOINT)
        to = put(to, section->endpoint, RECORD_ENDPOINT_BYTES);
    for (uint32_t n = 0; n < UAPI_NUMBERS_COUNT; n++)
        if (section->flags & RECORD_NUMBER << n)
            for (uint32_t i = 0; i < numbers[n].bytes; i++)
                *to++ = (uint8_t)(section->numbers[n] >> 8 * i);
    if (section->flags & RECORD_NAME) {
        *to++ = (uint8_t)section->name.bytes;
        to = put(to, section->name.text, section->name.bytes);
    }
    memmove(to, ips, RECORD_ALLOWED_BYTES * (uint64_t)section->allowed);
    return (uint64_t)(to - record) + RECORD_ALLOWED_BYTES * (uint64_t)section->allowed;
}

#define HEAD_MOST (RECORD_HEAD_BYTES + 32 + RECORD_ENDPOINT_BYTES + 8 * UAPI_NUMBERS_COUNT + 1 + NAME_MOST)
_Static_assert(HEAD_MOST <= UAPI_RECORDS_MORE, "allowed IPs are gathered behind the largest head");

/* The section at the front of text: its bytes, or 0 when it is not plain or not whole. */
static uint64_t take_section(struct line text, struct section *section, uint8_t *ips, uint32_t *lines,
                             uint32_t *is_cut)
{
    uint64_t at = 0;

    memset(section, 0, sizeof *section);
    for (*lines = 0;; ++*lines) {
        struct line rest = { text.text + at, text.bytes - at }, value;
        uint64_t end = find(rest, '\n', 0);
        if (end == rest.bytes) {
            *is_cut = 1;
            return 0;
        }
        struct line line = { rest.text, end };
        int begins = has_key(line, "public_key=", &value);
        if (*lines && (begins || end == 0))
            return at;
        if (*lines ? !take_line(line, section, ips) : !begins || !take_key(value, section->public_key))
            return 0;
        at += end + 1;
    }
}

void uapi_take_sections(const uint8_t *text, uint64_t bytes, uint8_t *records, uint32_t most_a_peer,
                        uint64_t budget, struct uapi_taken *taken)
{
    *taken = (struct uapi_taken){ 0 };
    for (;;) {
        struct section section;
        uint32_t lines;
        uint8_t *record = records + taken->record_bytes;
        struct line rest = { text + taken->text_bytes, bytes - taken->text_bytes };
        uint64_t used = take_section(rest, &section, record + HEAD_MOST, &lines, &taken->is_cut);
        uint64_t spent = taken->spent + most_a_peer + RECORD_ALLOWED_BYTES * (uint64_t)section.given;
        if (!used || spent > budget)
            return;
        taken->record_bytes += write_record(record, &section, record + HEAD_MOST);
        taken->text_bytes += used;
        taken->lines += lines;
        taken->spent = spent;
        taken->peers++;
    }
}
