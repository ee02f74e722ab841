/* What a fuzzer asks of decode.c, for libFuzzer; with replay.c a program that any compiler builds.
 *
 * Beyond what the sanitizers see: pixels do not depend on what the buffers held (stale memory), on the tile before
 * (tables, states of codecs), nor on how much of the tile was asked for.
 */
#include "fuzz_input.h"

/* All of it, to reach the buffers. */
#include "../../slidesampler/_native/decode.c"
#include "../../slidesampler/_native/excerpt.c"

#define REQUIRE(condition, text)                                                                               \
    do {                                                                                                       \
        if (!(condition)) {                                                                                    \
            fprintf(stderr, "%s\n", text);                                                                     \
            abort();                                                                                           \
        }                                                                                                      \
    } while (0)

/* Copies a part of a tile, of which an area is decoded, row after row; NULL where that fails. */
static uint8_t *decoded(Decoder *decoder, const Level *level, int64_t tile, Area area, Area kept)
{
    Pixels pixels;
    if (decode_tile(decoder, level, tile, area, &pixels)) {
        const char *message = decoder_message(decoder);
        REQUIRE(strlen(message) > 0 && strlen(message) < MESSAGE_BYTES, "an error without a message");
        return NULL;
    }
    const int64_t pixel = (int64_t)level->samples * level->itemsize, bytes = (kept.x1 - kept.x0) * pixel;
    REQUIRE(pixels.stride[1] == pixel && pixels.stride[2] == level->itemsize, "a decoded row is not in one piece");
    uint8_t *copy = malloc((size_t)((kept.y1 - kept.y0) * bytes)), *to = copy;
    REQUIRE(copy, "out of memory");
    for (int64_t y = kept.y0; y < kept.y1; y++, to += bytes)
        memcpy(to, pixels.first + y * pixels.stride[0] + kept.x0 * pixel, (size_t)bytes);
    return copy;
}

static int same(const Input *input, const uint8_t *one, const uint8_t *other)
{
    const Area *area = &input->area;
    const size_t pixels = (size_t)((area->y1 - area->y0) * (area->x1 - area->x0));
    if (!one || !other) return one == other;
    return memcmp(one, other, pixels * (size_t)(input->level.samples * input->level.itemsize)) == 0;
}

/* Overwrites whatever is left of tiles before. */
static void paint(Decoder *decoder, int value)
{
    if (decoder->raw) memset(decoder->raw, value, decoder->raw_size);
    if (decoder->tile) memset(decoder->tile, value, decoder->tile_size);
    if (decoder->line) memset(decoder->line, value, decoder->line_size);
    if (decoder->excerpt) memset(decoder->excerpt, value, decoder->excerpt_size);
}

static void check(const Input *input)
{
    const Level *level = &input->level;
    Decoder *decoder = open_decoder();
    REQUIRE(decoder, "out of memory");
    uint8_t *found[5];
    found[0] = decoded(decoder, level, TILE, input->area, input->area);
    paint(decoder, 0);
    found[1] = decoded(decoder, level, TILE, input->area, input->area);
    free(decoded(decoder, level, OTHER, input->whole, input->whole));
    paint(decoder, 0xa5);
    found[2] = decoded(decoder, level, TILE, input->area, input->area);
    /* What is wrong outside the area need not be noticed, so all of it may fail where a part does not. */
    found[3] = decoded(decoder, level, TILE, input->whole, input->area);
    close_decoder(decoder);
    decoder = open_decoder();
    REQUIRE(decoder, "out of memory");
    free(decoded(decoder, level, OTHER, input->area, input->area));
    found[4] = decoded(decoder, level, TILE, input->area, input->area);
    close_decoder(decoder);

    REQUIRE(same(input, found[0], found[1]), "the same tile is not the same a second time");
    REQUIRE(same(input, found[1], found[2]), "pixels depend on what was in the buffers");
    REQUIRE(same(input, found[0], found[4]), "pixels depend on the tile before");
    REQUIRE(!found[3] || same(input, found[0], found[3]), "a part is not what the whole tile has there");
    for (int i = 0; i < 5; i++) free(found[i]);
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
