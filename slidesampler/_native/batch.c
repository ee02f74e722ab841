/* Each tile that some window of a batch needs is read once, decoded once as far as it is needed, and copied to
 * every window that wants of it. Threads take tile after tile. There is no state between calls.
 */
#include "batch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 256

/* Part of a window that lies in one tile. */
typedef struct {
    const Level *level;
    int64_t tile, box;
    uint64_t offset;
    int32_t job;
} Hit;

/* The hits of one tile. */
typedef struct {
    const Hit *hits;
    int64_t count;
} Group;

typedef struct {
    const Job *jobs;
    int64_t n_jobs;
    Hit *hits;
    Group *groups;
    int64_t n_groups;
    _Atomic int64_t next;
    atomic_int outcome;
    Failure *failure;
} Batch;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* --- copies --------------------------------------------------------------------------------------------- */

#define COPY_SAMPLES(type)                                                                                     \
    do {                                                                                                       \
        for (int64_t x = 0; x < width; x++) memcpy(to + x * to_step, from + x * from_step, sizeof(type));      \
    } while (0)

/* Copies one sample of the pixels of a row. */
static void copy_samples(uint8_t *restrict to, int64_t to_step, const uint8_t *restrict from, int64_t from_step,
                         int64_t width, int itemsize)
{
    if (to_step == itemsize && from_step == itemsize) memcpy(to, from, (size_t)(width * itemsize));
    else if (itemsize == 1) COPY_SAMPLES(uint8_t);
    else if (itemsize == 2) COPY_SAMPLES(uint16_t);
    else if (itemsize == 4) COPY_SAMPLES(uint32_t);
    else COPY_SAMPLES(uint64_t);
}

/* The part of a box that lies in a tile, in pixels of the level. */
static Area part_in_tile(const Level *level, const Box *box, int64_t tile)
{
    const int64_t top = tile / level->columns * level->tile_height, left = tile % level->columns * level->tile_width;
    return (Area){most(box->y, top), least(least(box->y + box->height, top + level->tile_height), level->height),
                  most(box->x, left), least(least(box->x + box->width, left + level->tile_width), level->width)};
}

/* Copies a part of a level, of which the first pixel and the strides are given, to its place in a window. */
static void copy_part(const Job *job, const Level *level, const Box *box, Area part, const uint8_t *from,
                      const int64_t from_stride[3])
{
    const int64_t *stride = job->stride;
    const int64_t size = level->itemsize, pixel = size * level->samples, width = part.x1 - part.x0;
    uint8_t *to = job->out + box->slot * stride[0] + (part.y0 - box->y) * stride[1] + (part.x0 - box->x) * stride[2];
    int whole = job->n_channels == level->samples && stride[2] == pixel && stride[3] == size &&
                from_stride[1] == pixel && from_stride[2] == size;
    for (int c = 0; c < job->n_channels && whole; c++) whole = job->channels[c] == c;
    for (int64_t y = part.y0; y < part.y1; y++, from += from_stride[0], to += stride[1]) {
        if (whole) {
            memcpy(to, from, (size_t)(width * pixel));
            continue;
        }
        for (int c = 0; c < job->n_channels; c++)
            copy_samples(to + c * stride[3], stride[2], from + job->channels[c] * from_stride[2], from_stride[1],
                         width, level->itemsize);
    }
}

/* --- tiles ---------------------------------------------------------------------------------------------- */

static void stop(Batch *batch, enum outcome outcome, const Hit *hit, const char *message)
{
    int none = BATCH_DONE;
    /* The first to fail tells why; whoever asked reads it when all threads are done. */
    if (!atomic_compare_exchange_strong(&batch->outcome, &none, outcome) || outcome != BATCH_FAILED) return;
    batch->failure->job = hit->job;
    batch->failure->level = batch->jobs[hit->job].boxes[hit->box].level;
    batch->failure->tile = hit->tile;
    snprintf(batch->failure->message, MESSAGE_BYTES, "%s", message);
}

/* Decodes a tile and copies of it to all windows that want of it; returns -1 where it cannot be decoded. */
static int serve(const Batch *batch, Decoder *decoder, const Group *group)
{
    const Level *level = group->hits[0].level;
    const int64_t tile = group->hits[0].tile;
    const int64_t top = tile / level->columns * level->tile_height, left = tile % level->columns * level->tile_width;
    const int64_t pixel = (int64_t)level->samples * level->itemsize;
    const int64_t tile_stride[3] = {level->tile_width * pixel, pixel, level->itemsize};
    const int64_t *stride = level->pixels ? level->stride : tile_stride;
    const uint8_t *pixels = level->pixels;
    if (!pixels) {
        /* Of the tile only what some window wants is decoded. */
        Area need = {INT64_MAX, 0, INT64_MAX, 0};
        for (int64_t i = 0; i < group->count; i++) {
            const Hit *hit = &group->hits[i];
            const Area part = part_in_tile(level, &batch->jobs[hit->job].boxes[hit->box], tile);
            need = (Area){least(need.y0, part.y0 - top), most(need.y1, part.y1 - top),
                          least(need.x0, part.x0 - left), most(need.x1, part.x1 - left)};
        }
        if (!(pixels = decode_tile(decoder, level, tile, need))) return -1;
    }
    for (int64_t i = 0; i < group->count; i++) {
        const Job *job = &batch->jobs[group->hits[i].job];
        const Box *box = &job->boxes[group->hits[i].box];
        const Area part = part_in_tile(level, box, tile);
        copy_part(job, level, box, part, pixels + (part.y0 - top) * stride[0] + (part.x0 - left) * stride[1], stride);
    }
    return 0;
}

static void *work(void *argument)
{
    Batch *batch = argument;
    Decoder *decoder = open_decoder();
    if (!decoder) {
        stop(batch, BATCH_NO_MEMORY, NULL, NULL);
        return NULL;
    }
    while (batch->outcome == BATCH_DONE) {
        const int64_t number = batch->next++;
        if (number >= batch->n_groups) break;
        if (serve(batch, decoder, &batch->groups[number]))
            stop(batch, BATCH_FAILED, batch->groups[number].hits, decoder_message(decoder));
    }
    close_decoder(decoder);
    return NULL;
}

static int run(Batch *batch, int threads)
{
    pthread_t others[MAX_THREADS - 1];
    int started = 0;
    threads = (int)least(least(threads, MAX_THREADS), batch->n_groups);
    /* Where the system gives no thread, those that there are do the work. */
    while (started < threads - 1 && pthread_create(&others[started], NULL, work, batch) == 0) started++;
    work(batch);
    for (int i = 0; i < started; i++) pthread_join(others[i], NULL);
    return batch->outcome;
}

/* --- the plan ------------------------------------------------------------------------------------------- */

#define ORDER(a, b)                                                                                            \
    do {                                                                                                       \
        if ((a) != (b)) return (a) < (b) ? -1 : 1;                                                             \
    } while (0)

/* As the tiles lie in their files; hits of one tile together. */
static int compare_hits(const void *one, const void *other)
{
    const Hit *a = one, *b = other;
    ORDER((uintptr_t)a->level->counters, (uintptr_t)b->level->counters);
    ORDER(a->offset, b->offset);
    ORDER((uintptr_t)a->level, (uintptr_t)b->level);
    ORDER(a->tile, b->tile);
    ORDER(a->job, b->job);
    ORDER(a->box, b->box);
    return 0;
}

/* The tiles that a box touches: rows [y0, y1) and columns [x0, x1) of the grid. */
static Area tiles_of(const Level *level, const Box *box)
{
    const int64_t y0 = most(box->y, 0), y1 = least(box->y + box->height, level->height);
    const int64_t x0 = most(box->x, 0), x1 = least(box->x + box->width, level->width);
    if (y0 >= y1 || x0 >= x1) return (Area){0, 0, 0, 0};
    return (Area){y0 / level->tile_height, (y1 - 1) / level->tile_height + 1, x0 / level->tile_width,
                  (x1 - 1) / level->tile_width + 1};
}

static int64_t count_hits(const Batch *batch)
{
    int64_t total = 0;
    for (int64_t j = 0; j < batch->n_jobs; j++)
        for (int64_t i = 0; i < batch->jobs[j].n_boxes; i++) {
            const Box *box = &batch->jobs[j].boxes[i];
            const Area tiles = tiles_of(batch->jobs[j].levels[box->level], box);
            total += (tiles.y1 - tiles.y0) * (tiles.x1 - tiles.x0);
            if (total > (int64_t)1 << 40) return -1;
        }
    return total;
}

/* Fills hits and groups; returns -1 when out of memory. */
static int plan(Batch *batch)
{
    const int64_t total = count_hits(batch);
    int64_t at = 0;
    if (total < 0) return -1;
    batch->hits = malloc((size_t)most(total, 1) * sizeof(Hit));
    batch->groups = malloc((size_t)most(total, 1) * sizeof(Group));
    if (!batch->hits || !batch->groups) return -1;
    for (int64_t j = 0; j < batch->n_jobs; j++)
        for (int64_t i = 0; i < batch->jobs[j].n_boxes; i++) {
            const Box *box = &batch->jobs[j].boxes[i];
            const Level *level = batch->jobs[j].levels[box->level];
            const Area tiles = tiles_of(level, box);
            for (int64_t r = tiles.y0; r < tiles.y1; r++)
                for (int64_t c = tiles.x0; c < tiles.x1; c++) {
                    const int64_t tile = r * level->columns + c;
                    batch->hits[at++] =
                        (Hit){level, tile, i, level->pixels ? 0 : level->offsets[tile], (int32_t)j};
                }
        }
    qsort(batch->hits, (size_t)total, sizeof(Hit), compare_hits);
    for (int64_t i = 0; i < total; i++) {
        const Hit *hit = &batch->hits[i];
        /* Pixels in memory need no decoding: their windows are shared out one by one. */
        if (i > 0 && !hit->level->pixels && hit[-1].level == hit->level && hit[-1].tile == hit->tile)
            batch->groups[batch->n_groups - 1].count++;
        else batch->groups[batch->n_groups++] = (Group){hit, 1};
    }
    return 0;
}

enum outcome read_batch(const Job *jobs, int64_t n_jobs, int threads, Failure *failure)
{
    Batch batch = {.jobs = jobs, .n_jobs = n_jobs, .failure = failure};
    const int outcome = plan(&batch) ? BATCH_NO_MEMORY : run(&batch, threads);
    free(batch.hits);
    free(batch.groups);
    return outcome;
}
