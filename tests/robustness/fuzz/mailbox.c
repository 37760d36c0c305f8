/* mailbox: handshake messages put and taken, against a list; or with the ring's words written over. */
#include "memory.h"

#include "shm/mailbox.h"

#define QUEUED 8

void fuzz_one(struct input *input)
{
    struct segment segment;
    struct mailbox_cell waiting[QUEUED], *out = malloc(3 * sizeof *out);
    uint32_t count = 0, cells = memory_geometry.mailbox_cells;
    int hostile = take8(input) & 1;

    memory_begin(&segment);
    while (input->left) {
        uint8_t what = take8(input);

        if (what % 4 < 2) {
            struct mailbox_cell cell = { .length = take_below(input, 200) };
            uint8_t *message = take_buffer(input, cell.length);
            int refused;

            take_into(input, &cell.from, what & 4 ? sizeof cell.from : 4);
            refused = mailbox_put(&segment, what >> 7, &cell.from, message, cell.length);
            must(hostile || (refused == 0) == (what >> 7 == 0 && cell.length <= MAILBOX_MESSAGE_BYTES && count < cells));
            if (!refused && !hostile) {
                memcpy(cell.message, message, cell.length);
                waiting[count++] = cell;
            }
            free(message);
        } else if (what % 4 == 2) {
            uint32_t taken = mailbox_take(&segment, out, what >> 6);

            must(taken <= what >> 6);
            must(hostile || taken == (count < what >> 6 ? count : what >> 6));
            for (uint32_t i = 0; i < taken; i++)
                must(hostile || out[i].length <= MAILBOX_MESSAGE_BYTES);
            for (uint32_t i = 0; !hostile && i < taken; i++) {
                must(!memcmp(&out[i].from, &waiting[i].from, sizeof out[i].from));
                must(out[i].length == waiting[i].length && !memcmp(out[i].message, waiting[i].message, out[i].length));
            }
            if (!hostile) {
                memmove(waiting, waiting + taken, (count - taken) * sizeof *waiting);
                count -= taken;
            }
        } else if (hostile) {
            if (what & 8)
                segment.mailbox[0].put = take32(input);
            if (what & 16)
                segment.mailbox[0].got = take32(input);
            if (what & 32)
                segment.cells[take_below(input, cells)].length = take32(input);
        }
        must(mailbox_waiting(&segment) <= cells);
        must(hostile || mailbox_waiting(&segment) == count);
    }
    free(out);
}
