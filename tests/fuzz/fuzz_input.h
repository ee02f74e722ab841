/* A byte string that stands for a level, a tile of it and an area of the tile. fuzz_input.py has the same in Python.
 *
 *   0 codec, 1 predictor, 2 samples, 3 itemsize, 4 flags, 5-7 spare
 *   8 tile height, tile width, y0, rows, x0, columns, bytes of shared tables, bytes of the other tile: 16 bits each
 *   24 byte count, 32 offset: 64 bits each, taken where the flags say so
 *   40 shared JPEG tables, the other tile, the tile
 *
 * Little-endian. Any string means something: what would be out of range is folded into it, so that mutations go to
 * the decoder and not into refusals.
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include "../../slidesampler/_native/decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HEADER_BYTES = 40, MAX_SIDE = 256 };
enum { SWAP = 1, PACKED = 2, YCBCR = 4, COUNT_LIES = 8, OFFSET_LIES = 16 };
/* Numbers of the tiles. */
enum { TILE, OTHER, NEVER_WRITTEN, TILES };

typedef struct {
    Level level;
    Area area, whole;
    uint64_t offsets[TILES], counts[TILES];
    uint8_t *tables;
} Input;

static Counters input_counters;

static uint64_t input_number(const uint8_t *data, int bytes)
{
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | data[i];
    return value;
}

/* Puts the tiles into a file in memory. Returns 0 where the string is too short or the level is refused. */
static int open_input(Input *input, int fd, const uint8_t *data, size_t size)
{
    if (size < HEADER_BYTES) return 0;
    int64_t numbers[8];
    for (int i = 0; i < 8; i++) numbers[i] = (int64_t)input_number(data + 8 + 2 * i, 2);
    const int flags = data[4];
    memset(input, 0, sizeof *input);
    Level *level = &input->level;
    level->codec = data[0] % 5;
    level->packed = (flags & PACKED) != 0 && level->codec != CODEC_JPEG;
    const int bytes_only = level->packed || level->codec == CODEC_JPEG;
    level->predictor = bytes_only ? PREDICT_NONE : 1 + data[1] % 3;
    level->itemsize = bytes_only ? 1 : 1 << data[3] % 4;
    level->samples = 1 + data[2] % (level->codec == CODEC_JPEG ? 4 : 8);
    level->color = (flags & YCBCR) && level->samples == 3 ? COLOR_YCBCR : COLOR_AS_STORED;
    level->swap = (flags & SWAP) != 0;
    level->tile_height = level->height = 1 + numbers[0] % MAX_SIDE;
    level->tile_width = 1 + numbers[1] % MAX_SIDE;
    level->width = TILES * level->tile_width;
    input->whole = (Area){0, level->tile_height, 0, level->tile_width};
    Area *area = &input->area;
    area->y0 = numbers[2] % level->tile_height;
    area->y1 = area->y0 + 1 + numbers[3] % (level->tile_height - area->y0);
    area->x0 = numbers[4] % level->tile_width;
    area->x1 = area->x0 + 1 + numbers[5] % (level->tile_width - area->x0);

    const uint8_t *rest = data + HEADER_BYTES;
    size_t left = size - HEADER_BYTES, tables = (size_t)numbers[6] % (left + 1);
    size_t other = (size_t)numbers[7] % (left - tables + 1);
    level->tables_size = tables;
    /* Of exactly this size, so that reading on is noticed. */
    level->tables = input->tables = malloc(tables ? tables : 1);
    memcpy(input->tables, rest, tables);
    input->offsets[OTHER] = 0;
    input->counts[OTHER] = other;
    input->offsets[TILE] = flags & OFFSET_LIES ? input_number(data + 32, 8) : other;
    input->counts[TILE] = left - tables - other;
    if (flags & COUNT_LIES) {
        const uint64_t count = input_number(data + 24, 8);
        /* Sizes that are granted are kept small: the time goes into what is done with them. */
        input->counts[TILE] = count > (uint64_t)1 << 29 ? count : count % (1 << 16);
    }
    level->offsets = input->offsets;
    level->counts = input->counts;
    level->counters = &input_counters;
    level->fd = fd;
    if (ftruncate(fd, 0) || pwrite(fd, rest + tables, left - tables, 0) != (ssize_t)(left - tables)) {
        perror("the file in memory");
        abort();
    }
    if (!check_level(level)) return 1;
    free(input->tables);
    return 0;
}

static void close_input(Input *input) { free(input->tables); }

static int file_in_memory(void)
{
    const int fd = memfd_create("tiles", 0);
    if (fd < 0) {
        perror("memfd_create");
        abort();
    }
    return fd;
}

#endif
