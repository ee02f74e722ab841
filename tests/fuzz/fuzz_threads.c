/* Inputs of the fuzzer, each as a batch of many windows: what eight threads give is what one gives.
 * With replay.c, for ThreadSanitizer.
 */
#include "../../slidesampler/_native/batch.h"
#include "fuzz_input.h"

enum { WINDOWS = 24, JOBS = 2, THREADS = 8 };

/* Windows that overlap, over all tiles of the level and beyond its edges. */
static uint8_t *read_windows(const Input *input, int threads, enum outcome *outcome, Failure *failure)
{
    const Level *level = &input->level;
    const Level *levels[] = {level};
    const int64_t height = input->area.y1 - input->area.y0, width = input->area.x1 - input->area.x0;
    const int64_t pixel = (int64_t)level->samples * level->itemsize, window = height * width * pixel;
    int channels[8];
    Box boxes[JOBS][WINDOWS];
    Job jobs[JOBS];
    for (int c = 0; c < level->samples; c++) channels[c] = c;
    uint8_t *out = calloc((size_t)(JOBS * WINDOWS), (size_t)window);
    if (!out) abort();
    for (int j = 0; j < JOBS; j++) {
        for (int i = 0; i < WINDOWS; i++)
            boxes[j][i] = (Box){.y = input->area.y0 - i % 3, .x = i * level->width / WINDOWS - j, .height = height,
                                .width = width, .slot = WINDOWS - 1 - i, .level = 0};
        jobs[j] = (Job){.levels = levels, .boxes = boxes[j], .n_levels = 1, .n_boxes = WINDOWS, .channels = channels,
                        .n_channels = level->samples, .out = out + j * WINDOWS * window,
                        .stride = {window, width * pixel, pixel, level->itemsize}};
    }
    *outcome = read_batch(jobs, JOBS, threads, failure);
    return out;
}

static void check(const Input *input)
{
    enum outcome one, many;
    Failure failure = {0};
    uint8_t *first = read_windows(input, 1, &one, &failure), *second = read_windows(input, THREADS, &many, &failure);
    const Area *area = &input->area;
    const int64_t pixels = JOBS * WINDOWS * (area->y1 - area->y0) * (area->x1 - area->x0);
    /* Which of several bad tiles is told of is up to the threads, and what the output then holds. */
    if (one != many ||
        (one == BATCH_DONE && memcmp(first, second, (size_t)(pixels * input->level.samples * input->level.itemsize)))) {
        fprintf(stderr, "threads give something else\n");
        abort();
    }
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    if (fd < 0) fd = file_in_memory();
    Input input;
    if (open_input(&input, fd, data, size)) {
        check(&input);
        close_input(&input);
    }
    return 0;
}
