/* Histogram buckets, and when the events of a rate are due. */
#include <math.h>

#include "plait/load/generator.h"

uint32_t load_bucket(uint64_t ns)
{
    if (ns < 1u << LOAD_BUCKET_BITS)
        return (uint32_t)ns;
    if (ns >> 40)
        return LOAD_BUCKETS - 1;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(ns) - LOAD_BUCKET_BITS;

    /* ns >> shift lies in 256..511: its top bit says nothing more. */
    return ((shift + 1) << LOAD_BUCKET_BITS) + (uint32_t)(ns >> shift) - (1u << LOAD_BUCKET_BITS);
}

uint64_t load_bucket_middle(uint32_t bucket)
{
    if (bucket < 1u << LOAD_BUCKET_BITS)
        return bucket;
    uint32_t shift = (bucket >> LOAD_BUCKET_BITS) - 1;
    uint64_t low = (uint64_t)((bucket & 255) | 256) << shift;

    return low + ((1ull << shift) >> 1);
}

uint32_t load_recovery_bucket(uint64_t ns)
{
    uint32_t power;

    if (ns >> 22 < LOAD_RECOVERY_EVEN)
        return (uint32_t)(ns >> 22);
    if (ns >> 40)
        ns = (1ull << 40) - 1;
    power = 63 - (uint32_t)__builtin_clzll(ns);
    return LOAD_RECOVERY_EVEN + (power - 34) * 128 + (uint32_t)(ns >> (power - 7) & 127);
}

uint64_t load_recovery_bucket_middle(uint32_t bucket)
{
    uint32_t power;

    if (bucket < LOAD_RECOVERY_EVEN)
        return ((uint64_t)bucket << 22) + (1u << 21);
    bucket -= LOAD_RECOVERY_EVEN;
    power = 34 + bucket / 128;
    return (((uint64_t)(bucket % 128) | 128) << (power - 7)) + (1ull << (power - 8));
}

/* N(t) = r0 t + (r1 - r0) t^2 / 2T events have happened by t; solved for N = k. */
uint64_t load_pace(const double *r, uint64_t length, double k)
{
    double seconds = (double)length / 1e9, t;

    if (length == 0 || r[0] == r[1]) {
        if (r[0] <= 0)
            return UINT64_MAX;
        t = k / r[0];
    } else {
        double slope = (r[1] - r[0]) / seconds, root = r[0] * r[0] + 2 * slope * k;

        if (root < 0)
            return UINT64_MAX;
        /* The form without cancellation; r0 = 0 and k = 0 is the beginning. */
        t = k == 0 ? 0 : 2 * k / (r[0] + sqrt(root));
    }
    if (length && t >= seconds)
        return UINT64_MAX;
    return (uint64_t)(t * 1e9);
}
