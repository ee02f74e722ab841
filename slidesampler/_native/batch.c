/* Each tile that some window of a batch needs is read once, decoded once as far as it is needed, and copied to
 * every window that wants of it. Threads take tile after tile. There is no state between calls.
 */
#include "batch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <tmmintrin.h>
#endif

#define MAX_THREADS 256
/* So many tiles ahead the system is told what will be read: a disk that has to fetch them works while others are
 * decoded. No more, so that a large batch does not push its own tiles out of memory before their turn comes. */
#define TILES_AHEAD 64

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

/* --- copies --------------------------------------------------------------------------------------------- */

/* Copies `count` units of `size` bytes; a size known to the compiler is a move and not a call. */
static void copy_units(uint8_t *restrict to, int64_t to_step, const uint8_t *restrict from, int64_t from_step,
                       int64_t count, int64_t size)
{
#define COPY(bytes)                                                                                            \
    case bytes:                                                                                                \
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, bytes);             \
        return
    if (to_step == size && from_step == size) {
        memcpy(to, from, (size_t)(count * size));
        return;
    }
    switch (size) {
        COPY(1);
        COPY(2);
        COPY(3);
        COPY(4);
        COPY(6);
        COPY(8);
    default:
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, (size_t)size);
    }
#undef COPY
}

#ifdef __x86_64__
/* Sixteen pixels at a time; returns how many are done. Every machine of this century has these instructions, but not
 * every compiler may use them unasked. */
__attribute__((target("ssse3"))) static int64_t split_rgb_wide(uint8_t *const planes[3], const uint8_t *from,
                                                              int64_t count)
{
    int64_t done = 0;
    if (!__builtin_cpu_supports("ssse3")) return 0;
    __m128i pick[3][3];
    for (int plane = 0; plane < 3; plane++)
        for (int part = 0; part < 3; part++) {
            int8_t lanes[16];
            for (int i = 0; i < 16; i++) {
                const int at = 3 * i + plane - 16 * part;
                lanes[i] = at >= 0 && at < 16 ? (int8_t)at : -1;
            }
            pick[plane][part] = _mm_loadu_si128((const __m128i *)lanes);
        }
    for (; done + 16 <= count; done += 16) {
        const __m128i *block = (const __m128i *)(from + 3 * done);
        const __m128i a = _mm_loadu_si128(block), b = _mm_loadu_si128(block + 1), c = _mm_loadu_si128(block + 2);
        for (int plane = 0; plane < 3; plane++)
            _mm_storeu_si128((__m128i *)(planes[plane] + done),
                             _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, pick[plane][0]),
                                                       _mm_shuffle_epi8(b, pick[plane][1])),
                                          _mm_shuffle_epi8(c, pick[plane][2])));
    }
    return done;
}
#else
static int64_t split_rgb_wide(uint8_t *const planes[3], const uint8_t *from, int64_t count)
{
    (void)planes, (void)from, (void)count;
    return 0;
}
#endif

/* A row of RGB of bytes to three planes: the copy that every network asks for. */
static void split_rgb(uint8_t *to, int64_t plane_step, const uint8_t *from, int64_t count)
{
    uint8_t *const planes[3] = {to, to + plane_step, to + 2 * plane_step};
    for (int64_t i = split_rgb_wide(planes, from, count); i < count; i++)
        for (int plane = 0; plane < 3; plane++) planes[plane][i] = from[3 * i + plane];
}

/* The part of a box that lies in a tile, in pixels of the level. */
static Area part_in_tile(const Level *level, const Box *box, int64_t tile)
{
    const int64_t top = tile / level->columns * level->tile_height, left = tile % level->columns * level->tile_width;
    return (Area){most(box->y, top), least(least(box->y + box->height, top + level->tile_height), level->height),
                  most(box->x, left), least(least(box->x + box->width, left + level->tile_width), level->width)};
}

/* Rows of a mapped slide are pages apart: the processor's own prefetcher stops at the end of each. */
#define ROWS_AHEAD 3

static void fetch_ahead(const uint8_t *row, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
    __builtin_prefetch(row + bytes - 1);
}

/* Copies a part of a level, of which pixels of the tile at (top, left) are given, to its place in a window. */
static void copy_part(const Job *job, const Level *level, const Box *box, Area part, const Pixels *pixels,
                      int64_t top, int64_t left)
{
    const int64_t *to_stride = job->stride, *from_stride = pixels->stride;
    const int64_t size = level->itemsize, width = part.x1 - part.x0;
    const int n = job->n_channels;
    const uint8_t *from = pixels->first + (part.y0 - top) * from_stride[0] + (part.x0 - left) * from_stride[1];
    uint8_t *to = job->out + box->slot * to_stride[0] + (part.y0 - box->y) * to_stride[1] +
                  (part.x0 - box->x) * to_stride[2];
    int in_order = n > 0 && from_stride[2] == size;
    for (int c = 1; c < n && in_order; c++) in_order = job->channels[c] == job->channels[0] + c;
    const int whole = in_order && (n == 1 || to_stride[3] == size);
    const int rgb = in_order && n == 3 && size == 1 && from_stride[1] == 3 && to_stride[2] == 1;
    const int64_t row_bytes = level->memory.first && from_stride[1] > 0 ? width * from_stride[1] : 0;
    for (int64_t y = part.y0; y < part.y1; y++, from += from_stride[0], to += to_stride[1]) {
        if (row_bytes && y + ROWS_AHEAD < part.y1) fetch_ahead(from + ROWS_AHEAD * from_stride[0], row_bytes);
        if (whole)
            copy_units(to, to_stride[2], from + job->channels[0] * size, from_stride[1], width, n * size);
        else if (rgb) split_rgb(to, to_stride[3], from + job->channels[0], width);
        else
            for (int c = 0; c < n; c++)
                copy_units(to + c * to_stride[3], to_stride[2], from + job->channels[c] * from_stride[2],
                           from_stride[1], width, size);
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
    Pixels pixels = level->memory;
    if (!pixels.first) {
        /* Of the tile only what some window wants is decoded. */
        Area need = {INT64_MAX, 0, INT64_MAX, 0};
        for (int64_t i = 0; i < group->count; i++) {
            const Hit *hit = &group->hits[i];
            const Area part = part_in_tile(level, &batch->jobs[hit->job].boxes[hit->box], tile);
            need = (Area){least(need.y0, part.y0 - top), most(need.y1, part.y1 - top),
                          least(need.x0, part.x0 - left), most(need.x1, part.x1 - left)};
        }
        if (decode_tile(decoder, level, tile, need, &pixels)) return -1;
    }
    for (int64_t i = 0; i < group->count; i++) {
        const Job *job = &batch->jobs[group->hits[i].job];
        const Box *box = &job->boxes[group->hits[i].box];
        copy_part(job, level, box, part_in_tile(level, box, tile), &pixels, top, left);
    }
    return 0;
}

static void announce(const Batch *batch, int64_t number)
{
    if (number >= batch->n_groups || batch->n_groups == 1) return;
    const Hit *hit = batch->groups[number].hits;
    if (!hit->level->memory.first) announce_tile(hit->level, hit->tile);
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
        announce(batch, number + TILES_AHEAD);
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
    for (int64_t i = 0; i < TILES_AHEAD; i++) announce(batch, i);
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
                        (Hit){level, tile, i, level->memory.first ? 0 : level->offsets[tile], (int32_t)j};
                }
        }
    qsort(batch->hits, (size_t)total, sizeof(Hit), compare_hits);
    for (int64_t i = 0; i < total; i++) {
        const Hit *hit = &batch->hits[i];
        /* Pixels in memory need no decoding: their windows are shared out one by one. */
        if (i > 0 && !hit->level->memory.first && hit[-1].level == hit->level && hit[-1].tile == hit->tile)
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
