/* Tiles of a TIFF: read, unpacked and turned into plain pixels. */
#define _FILE_OFFSET_BITS 64
#include "decode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>
#include <libdeflate.h>
#include <zstd.h>

/* Compressed data is never so much larger than what it holds. */
#define MAX_COMPRESSED_BYTES ((uint64_t)1 << 29)
/* Of a progressive JPEG, as libtiff has it. A scan of a few bytes goes over the whole tile: a million of them in a
 * file of some megabytes would take minutes. */
#define MAX_JPEG_SCANS 100

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} JpegError;

struct Decoder {
    uint8_t *raw, *tile, *line;
    size_t raw_size, tile_size, line_size;
    ZSTD_DCtx *zstd;
    struct libdeflate_decompressor *deflate;
    struct jpeg_decompress_struct jpeg;
    struct jpeg_progress_mgr jpeg_progress;
    JpegError jpeg_error;
    char message[MESSAGE_BYTES];
};

static int fail(Decoder *decoder, const char *text)
{
    snprintf(decoder->message, MESSAGE_BYTES, "%s", text);
    return -1;
}

static int reserve(Decoder *decoder, uint8_t **buffer, size_t *size, size_t wanted)
{
    if (*size >= wanted) return 0;
    free(*buffer);
    *size = 0;
    *buffer = malloc(wanted);
    if (!*buffer) return fail(decoder, "out of memory");
    *size = wanted;
    return 0;
}

static void jpeg_escape(j_common_ptr info)
{
    JpegError *error = (JpegError *)info->err;
    error->base.format_message(info, error->message);
    longjmp(error->escape, 1);
}

static void jpeg_warning(j_common_ptr info, int level)
{
    /* Below zero: the data is damaged, and what comes out is made up. */
    if (level < 0) jpeg_escape(info);
}

static void jpeg_silence(j_common_ptr info) { (void)info; }

static void jpeg_scans(j_common_ptr info)
{
    if (((j_decompress_ptr)info)->input_scan_number <= MAX_JPEG_SCANS) return;
    JpegError *error = (JpegError *)info->err;
    snprintf(error->message, JMSG_LENGTH_MAX, "a JPEG of more than %d scans", MAX_JPEG_SCANS);
    longjmp(error->escape, 1);
}

/* Decodes an area of a JPEG tile into the tile buffer. */
static int decode_jpeg(Decoder *decoder, const Level *level, const uint8_t *data, size_t size, Area area)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    /* From scratch for every tile, which takes a microsecond: tables of another one would stand in for those that
     * are missing here, and what comes out would depend on which was decoded before. */
    memset(jpeg, 0, sizeof *jpeg);
    jpeg->err = jpeg_std_error(&decoder->jpeg_error.base);
    jpeg->err->error_exit = jpeg_escape;
    jpeg->err->emit_message = jpeg_warning;
    jpeg->err->output_message = jpeg_silence;
    if (setjmp(decoder->jpeg_error.escape)) {
        snprintf(decoder->message, MESSAGE_BYTES, "%s", decoder->jpeg_error.message);
        jpeg_destroy_decompress(jpeg);
        return -1;
    }
    jpeg_create_decompress(jpeg);
    jpeg->progress = &decoder->jpeg_progress;
    jpeg->progress->progress_monitor = jpeg_scans;
    if (level->tables_size > 0) {
        jpeg_mem_src(jpeg, level->tables, (unsigned long)level->tables_size);
        if (jpeg_read_header(jpeg, FALSE) != JPEG_HEADER_TABLES_ONLY) {
            snprintf(decoder->jpeg_error.message, JMSG_LENGTH_MAX, "the shared JPEG tables hold an image");
            longjmp(decoder->jpeg_error.escape, 1);
        }
    }
    jpeg_mem_src(jpeg, data, (unsigned long)size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_width != level->tile_width || jpeg->image_height != level->tile_height ||
        jpeg->num_components != level->samples || jpeg->data_precision != 8) {
        snprintf(decoder->jpeg_error.message, JMSG_LENGTH_MAX, "a JPEG of %u x %u pixels and %d components",
                 jpeg->image_height, jpeg->image_width, jpeg->num_components);
        longjmp(decoder->jpeg_error.escape, 1);
    }
    /* As the TIFF says, whatever markers of other programs say inside the stream. */
    if (level->color == COLOR_YCBCR) {
        jpeg->jpeg_color_space = JCS_YCbCr;
        jpeg->out_color_space = JCS_RGB;
    } else {
        jpeg->jpeg_color_space = JCS_UNKNOWN;
        jpeg->out_color_space = JCS_UNKNOWN;
    }
    jpeg_start_decompress(jpeg);
    const int64_t row_bytes = level->tile_width * level->samples;
    JDIMENSION first = 0, width = (JDIMENSION)level->tile_width;
    if (area.x0 > 0 || area.x1 < level->tile_width) {
        /* A block more on either side: smooth chroma at an edge needs its neighbour, or it would not be what
         * decoding the whole tile gives. */
        int64_t mcu = (int64_t)jpeg->max_h_samp_factor * DCTSIZE;
        int64_t from = area.x0 - mcu > 0 ? area.x0 - mcu : 0;
        int64_t to = area.x1 + mcu < level->tile_width ? area.x1 + mcu : level->tile_width;
        first = (JDIMENSION)from;
        width = (JDIMENSION)(to - from);
        jpeg_crop_scanline(jpeg, &first, &width);
    }
    if (area.y0 > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)area.y0);
    while (jpeg->output_scanline < (JDIMENSION)area.y1) {
        JSAMPROW rows[8];
        int count = 0;
        for (int64_t y = jpeg->output_scanline; y < area.y1 && count < 8; y++, count++)
            rows[count] = decoder->tile + y * row_bytes + (int64_t)first * level->samples;
        jpeg_read_scanlines(jpeg, rows, (JDIMENSION)count);
    }
    jpeg_destroy_decompress(jpeg);
    return 0;
}

/* LZW as TIFF has it: codes of 9 to 12 bits, most significant bit first, one code early. The string of a code is
 * where it was first written: what the code before it gave, and the byte after that. */
static int decode_lzw(Decoder *decoder, const uint8_t *data, size_t size, uint8_t *out, size_t wanted)
{
    enum { CLEAR = 256, END = 257, FIRST = 258, TABLE = 4096 };
    size_t start[TABLE];
    uint32_t length[TABLE];
    uint64_t bits = 0;
    int held = 0, width = 9, next = FIRST, fresh = 1;
    size_t at = 0, done = 0, before = 0;
    while (done < wanted) {
        while (held < width) {
            if (at >= size) return fail(decoder, "the LZW data ends early");
            bits = bits << 8 | data[at++];
            held += 8;
        }
        const int code = (int)(bits >> (held - width)) & ((1 << width) - 1);
        held -= width;
        if (code == END) break;
        if (code == CLEAR) {
            width = 9;
            next = FIRST;
            fresh = 1;
            continue;
        }
        if (!fresh) {
            if (next >= TABLE) return fail(decoder, "the LZW data is damaged");
            start[next] = before;
            length[next++] = (uint32_t)(done - before + 1);
        }
        before = done;
        if (code < CLEAR) {
            out[done++] = (uint8_t)code;
        } else {
            if (code >= next || fresh) return fail(decoder, "the LZW data is damaged");
            const uint8_t *from = out + start[code];
            size_t count = length[code];
            if (count > wanted - done) count = wanted - done;
            /* Byte by byte: the string may reach into what it is copied to. */
            for (uint8_t *to = out + done, *end = to + count; to < end;) *to++ = *from++;
            done += count;
        }
        fresh = 0;
        if (next + 1 >= 1 << width && width < 12) width++;
    }
    return done == wanted ? 0 : fail(decoder, "the LZW data ends early");
}

static void swap_bytes(uint8_t *data, int64_t count, int itemsize)
{
    if (itemsize == 2) {
        uint16_t *values = (uint16_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap16(values[i]);
    } else if (itemsize == 4) {
        uint32_t *values = (uint32_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap32(values[i]);
    } else if (itemsize == 8) {
        uint64_t *values = (uint64_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap64(values[i]);
    }
}

#define ACCUMULATE(type)                                                                                       \
    do {                                                                                                       \
        type *values = (type *)row;                                                                            \
        for (int64_t i = samples; i < count; i++) values[i] = (type)(values[i] + values[i - samples]);         \
    } while (0)

/* Undoes the difference of neighbours along one row. */
static void undo_horizontal(uint8_t *row, int64_t count, int samples, int itemsize)
{
    if (itemsize == 1) ACCUMULATE(uint8_t);
    else if (itemsize == 2) ACCUMULATE(uint16_t);
    else if (itemsize == 4) ACCUMULATE(uint32_t);
    else ACCUMULATE(uint64_t);
}

/* Undoes TIFF's floating-point predictor along one row: bytes of equal weight lie together, most significant
 * first, as differences. Source: Adobe Photoshop TIFF Technical Note 3, 2005. */
static void undo_float(uint8_t *row, uint8_t *line, int64_t count, int samples, int itemsize)
{
    int64_t bytes = count * itemsize;
    for (int64_t i = samples; i < bytes; i++) row[i] = (uint8_t)(row[i] + row[i - samples]);
    memcpy(line, row, (size_t)bytes);
    for (int64_t i = 0; i < count; i++)
        for (int b = 0; b < itemsize; b++)
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            row[i * itemsize + b] = line[b * count + i];
#else
            row[i * itemsize + b] = line[(itemsize - 1 - b) * count + i];
#endif
}

static int read_at(Decoder *decoder, const Level *level, uint8_t *buffer, size_t size, uint64_t offset)
{
    size_t done = 0;
    level->counters->bytes += size;
    while (done < size) {
        ssize_t got = pread(level->fd, buffer + done, size - done, (off_t)(offset + done));
        if (got < 0) {
            if (errno == EINTR) continue;
            snprintf(decoder->message, MESSAGE_BYTES, "%s", strerror(errno));
            return -1;
        }
        if (got == 0) return fail(decoder, "it reaches past the end of the file");
        done += (size_t)got;
    }
    return 0;
}

/* Undoes the compression of the rows of an area, or of all of it; JPEG excepted. */
static int unpack_tile(Decoder *decoder, const Level *level, uint8_t *out, int64_t row_bytes, uint64_t offset,
                       uint64_t count, Area area)
{
    const size_t bytes = (size_t)(row_bytes * level->tile_height);
    if (level->codec == CODEC_NONE) {
        const uint64_t skipped = (uint64_t)(area.y0 * row_bytes);
        if (count < bytes) return fail(decoder, "it is smaller than a tile is");
        return read_at(decoder, level, out + skipped, (size_t)((area.y1 - area.y0) * row_bytes), offset + skipped);
    }
    if (level->codec == CODEC_LZW) return decode_lzw(decoder, decoder->raw, (size_t)count, out, bytes);
    if (level->codec == CODEC_ZSTD) {
        if (!decoder->zstd && !(decoder->zstd = ZSTD_createDCtx())) return fail(decoder, "out of memory");
        size_t got = ZSTD_decompressDCtx(decoder->zstd, out, bytes, decoder->raw, (size_t)count);
        if (ZSTD_isError(got)) return fail(decoder, ZSTD_getErrorName(got));
        return got == bytes ? 0 : fail(decoder, "it holds less than a tile");
    }
    if (!decoder->deflate && !(decoder->deflate = libdeflate_alloc_decompressor()))
        return fail(decoder, "out of memory");
    size_t got = 0;
    if (libdeflate_zlib_decompress(decoder->deflate, decoder->raw, (size_t)count, out, bytes, &got) !=
            LIBDEFLATE_SUCCESS ||
        got != bytes)
        return fail(decoder, "the DEFLATE data is damaged, or not of a tile's size");
    return 0;
}

/* Writes one value again and again; of one byte, as most are, at the speed of memset. */
static void fill(uint8_t *out, int64_t count, const uint8_t *value, int itemsize)
{
    int same = 1;
    for (int b = 1; b < itemsize; b++) same &= value[b] == value[0];
    if (same) memset(out, value[0], (size_t)(count * itemsize));
    else
        for (int64_t i = 0; i < count; i++) memcpy(out + i * itemsize, value, (size_t)itemsize);
}

static void expand_bits(const uint8_t *bits, uint8_t *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = bits[i >> 3] >> (7 - (i & 7)) & 1;
}

/* Decodes at least an area of a tile into decoder->tile. */
static int decode(Decoder *decoder, const Level *level, int64_t tile, Area area)
{
    const uint64_t offset = level->offsets[tile], count = level->counts[tile];
    const int64_t line = level->tile_width * level->samples;
    const int64_t row_bytes = line * level->itemsize;
    const int64_t packed_bytes = (line + 7) / 8;
    if (reserve(decoder, &decoder->tile, &decoder->tile_size, (size_t)(row_bytes * level->tile_height))) return -1;
    if (count == 0) {
        /* Never written: a sparse file. */
        fill(decoder->tile + area.y0 * row_bytes, line * (area.y1 - area.y0), level->empty, level->itemsize);
        return 0;
    }
    level->counters->tiles++;
    if (count > MAX_COMPRESSED_BYTES || offset > (uint64_t)INT64_MAX - count)
        return fail(decoder, "the file says it is larger than a tile can be");
    if (level->codec != CODEC_NONE &&
        (reserve(decoder, &decoder->raw, &decoder->raw_size, (size_t)count) ||
         read_at(decoder, level, decoder->raw, (size_t)count, offset)))
        return -1;
    if (level->codec == CODEC_JPEG) return decode_jpeg(decoder, level, decoder->raw, (size_t)count, area);
    if (level->packed) {
        if (reserve(decoder, &decoder->line, &decoder->line_size, (size_t)(packed_bytes * level->tile_height)) ||
            unpack_tile(decoder, level, decoder->line, packed_bytes, offset, count, area))
            return -1;
        for (int64_t y = area.y0; y < area.y1; y++)
            expand_bits(decoder->line + y * packed_bytes, decoder->tile + y * row_bytes, line);
        return 0;
    }
    if (unpack_tile(decoder, level, decoder->tile, row_bytes, offset, count, area)) return -1;
    if (level->predictor == PREDICT_FLOAT &&
        reserve(decoder, &decoder->line, &decoder->line_size, (size_t)row_bytes))
        return -1;
    for (int64_t y = area.y0; y < area.y1; y++) {
        uint8_t *row = decoder->tile + y * row_bytes;
        if (level->predictor == PREDICT_FLOAT) {
            undo_float(row, decoder->line, line, level->samples, level->itemsize);
            continue;
        }
        if (level->swap) swap_bytes(row, line, level->itemsize);
        if (level->predictor == PREDICT_HORIZONTAL) undo_horizontal(row, line, level->samples, level->itemsize);
    }
    return 0;
}

const uint8_t *decode_tile(Decoder *decoder, const Level *level, int64_t tile, Area area)
{
    return decode(decoder, level, tile, area) ? NULL : decoder->tile;
}

const char *decoder_message(const Decoder *decoder) { return decoder->message; }

Decoder *open_decoder(void) { return calloc(1, sizeof(Decoder)); }

void close_decoder(Decoder *decoder)
{
    ZSTD_freeDCtx(decoder->zstd);
    libdeflate_free_decompressor(decoder->deflate);
    free(decoder->raw);
    free(decoder->tile);
    free(decoder->line);
    free(decoder);
}

const char *check_level(Level *level)
{
    const int64_t limit = (int64_t)1 << 40, side = 1 << 20;
    const int itemsize = level->itemsize;
    if (level->height < 1 || level->width < 1 || level->height > limit || level->width > limit)
        return "height and width";
    if (level->tile_height < 1 || level->tile_width < 1 || level->tile_height > side || level->tile_width > side)
        return "tile_height and tile_width";
    if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) return "itemsize";
    if (level->samples < 1 || level->samples > 65535 ||
        level->tile_height * level->tile_width * level->samples > MAX_TILE_BYTES / itemsize)
        return "samples";
    if (level->codec < CODEC_NONE || level->codec > CODEC_JPEG) return "codec";
    if (level->predictor < PREDICT_NONE || level->predictor > PREDICT_FLOAT ||
        (level->predictor == PREDICT_FLOAT && itemsize == 1))
        return "predictor";
    if (level->codec == CODEC_JPEG && (itemsize != 1 || level->samples > 4 || level->predictor != PREDICT_NONE ||
                                       (level->color == COLOR_YCBCR && level->samples != 3)))
        return "codec and samples";
    if (level->packed && (itemsize != 1 || level->codec == CODEC_JPEG || level->predictor != PREDICT_NONE))
        return "packed";
    level->rows = (level->height + level->tile_height - 1) / level->tile_height;
    level->columns = (level->width + level->tile_width - 1) / level->tile_width;
    return level->rows > limit / level->columns ? "height and width" : NULL;
}
