/* Decoding single tiles. Knows nothing of Python, nor of windows: a fuzzer can call it as the extension does.
 *
 * Everything that comes from a file is checked before it is used: sizes and offsets against what was read,
 * decoded lengths against the tile, JPEG headers against the directory. What fails is an error in words; no
 * pixel that was asked for is left as it was found in memory.
 */
#ifndef SLIDESAMPLER_DECODE_H
#define SLIDESAMPLER_DECODE_H

#include <stddef.h>
#include <stdint.h>

enum codec { CODEC_NONE, CODEC_DEFLATE, CODEC_ZSTD, CODEC_LZW, CODEC_JPEG };
enum predictor { PREDICT_NONE = 1, PREDICT_HORIZONTAL = 2, PREDICT_FLOAT = 3 };
enum color { COLOR_AS_STORED, COLOR_YCBCR };

#define MESSAGE_BYTES 200
/* No tile of a file that can be trusted is larger; what says it is would only exhaust the memory. */
#define MAX_TILE_BYTES ((int64_t)1 << 28)

/* What was done with a file, for tests that count; shared by threads. */
typedef struct {
    _Atomic uint64_t tiles, bytes;
} Counters;

/* Pixels in memory: the first one, and the strides of y, x and sample in bytes. */
typedef struct {
    const uint8_t *first;
    int64_t stride[3];
} Pixels;

/* A level of a tiled TIFF; or pixels in memory, which are a level of one tile that needs no decoding. */
typedef struct {
    int64_t height, width, tile_height, tile_width, columns, rows;
    int samples, itemsize;
    Pixels memory; /* of none where this is a file */
    /* A file: rows * columns places and sizes of tiles; a size of 0 is a tile that was never written. */
    int fd;
    Counters *counters;
    const uint64_t *offsets, *counts;
    const uint8_t *tables; /* what JPEG tiles share */
    size_t tables_size;
    int swap;   /* samples are in the other byte order */
    int packed; /* one bit a sample, as masks are; out come bytes of 0 and 1 */
    enum codec codec;
    enum predictor predictor;
    enum color color;
    uint8_t empty[8]; /* a sample of a tile that was never written */
} Level;

/* Rows [y0, y1) and columns [x0, x1). */
typedef struct {
    int64_t y0, y1, x0, x1;
} Area;

/* What a thread needs to decode: kept from tile to tile. */
typedef struct Decoder Decoder;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Returns what is wrong with a level, or NULL. rows and columns of tiles are set here. */
const char *check_level(Level *level);

/* Tells the system that a tile will be read soon. */
void announce_tile(const Level *level, int64_t tile);

/* Returns NULL where there is no memory. */
Decoder *open_decoder(void);
void close_decoder(Decoder *decoder);

/* Decodes at least an area of a tile, in pixels of the tile; it must lie in the tile and not be empty.
 *
 * Returns 0 and the pixels of the tile, of which those of the area are valid until the next call; or -1, and
 * decoder_message tells why.
 */
int decode_tile(Decoder *decoder, const Level *level, int64_t tile, Area area, Pixels *pixels);
const char *decoder_message(const Decoder *decoder);

#endif
