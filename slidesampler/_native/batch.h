/* Many windows at once: which tiles they need, threads that decode them, and copies to where they belong. */
#ifndef SLIDESAMPLER_BATCH_H
#define SLIDESAMPLER_BATCH_H

#include "decode.h"

/* A window of a level, in pixels of the level, and which of the outputs it fills. */
typedef struct {
    int64_t y, x, height, width, slot;
    int64_t level;
} Box;

/* Windows of levels of one kind that fill one array. */
typedef struct {
    const Level **levels;
    Box *boxes;
    int64_t n_levels, n_boxes;
    int *channels;
    int n_channels;
    uint8_t *out;
    int64_t stride[4]; /* of slot, y, x, channel; bytes */
} Job;

/* Where it went wrong. */
typedef struct {
    int64_t job, level, tile;
    char message[MESSAGE_BYTES];
} Failure;

enum outcome { BATCH_DONE, BATCH_NO_MEMORY, BATCH_FAILED };

/* Fills the outputs of all jobs. Boxes must be of a level that is there and have a slot in the output. */
enum outcome read_batch(const Job *jobs, int64_t n_jobs, int threads, Failure *failure);

#endif
