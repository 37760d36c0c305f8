/* segmentation: what the TUN says of a packet, and the packet; cut, the parts are the whole. */
#include "input.h"

#include "engine/segmentation.h"

/* One packet of the cut: its payload is a piece of the whole, its lengths are its own. */
static void check_cut(const struct super_packet *super, const struct segmentation *plan, uint32_t which)
{
    uint8_t *out = malloc(plan->largest);
    uint32_t length = segmentation_cut(super, plan, which, out), payload = length - plan->header;
    uint32_t start = plan->header + which * super->gso_size;

    must(length <= plan->largest && length > plan->header);
    must(which + 1 == plan->packets ? start + payload == super->length : payload == super->gso_size);
    must(!memcmp(out + plan->header, super->data + start, payload));
    if (out[0] >> 4 == 4)
        must(((uint32_t)out[2] << 8 | out[3]) == (length & 0xffff));
    else
        must(((uint32_t)out[4] << 8 | out[5]) == ((length - 40) & 0xffff));
    free(out);
}

static void check_alone(const struct super_packet *super, const struct segmentation *plan)
{
    uint8_t *out = malloc(plan->largest);
    uint32_t field = (uint32_t)super->checksum_start + super->checksum_offset, changed = 0;

    must(plan->packets == 1 && segmentation_cut(super, plan, 0, out) == super->length);
    for (uint32_t i = 0; i < super->length; i++)
        changed += out[i] != super->data[i] && (!(super->flags & VNET_NEEDS_CSUM) || i - field > 1);
    must(!changed);
    free(out);
}

void fuzz_one(struct input *input)
{
    struct super_packet super = { .flags = take8(input) };
    struct segmentation plan;
    uint32_t stretch;
    uint8_t *data;

    super.gso_type = take8(input);
    super.gso_size = take16(input);
    super.checksum_start = take16(input);
    super.checksum_offset = take16(input);
    stretch = take16(input);
    super.length = (uint32_t)input->left + (stretch >= 32768 ? stretch : 0);
    super.data = data = take_buffer(input, super.length);
    if (segmentation_plan(&super, &plan) == 0) {
        uint32_t step = plan.packets > 64 ? plan.packets / 16 : 1;

        must(plan.packets >= 1 && plan.header < super.length);
        if (!plan.header)
            check_alone(&super, &plan);
        for (uint32_t which = 0; plan.header && which < plan.packets; which += step)
            check_cut(&super, &plan, which);
        if (plan.header)
            check_cut(&super, &plan, plan.packets - 1);
    }
    free(data);
}
