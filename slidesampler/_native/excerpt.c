/* Restart markers cut the bits of a JPEG into intervals that are decoded without those before them: intervals above and
 * beside a window need not even be parsed. The headers are copied with another height and width, the intervals with
 * markers counted anew. Source of the format: ITU-T T.81 (1992), annex B and E.1.4.
 */
#include "excerpt.h"

#include <string.h>

enum {
    SOF_BASELINE = 0xc0,
    SOF_EXTENDED = 0xc1,
    DHT = 0xc4,
    RST0 = 0xd0,
    SOI = 0xd8,
    SOS = 0xda,
    DQT = 0xdb,
    DRI = 0xdd,
    COM = 0xfe,
};
#define MOST_COMPONENTS 4

/* What the headers say, in pixels. */
typedef struct {
    int64_t height, width, block_height, block_width; /* a block: an MCU */
    int64_t interval;                                 /* MCUs between restarts; 0 for none */
    int components, edge_height, edge_width;          /* an edge: a sample of chroma */
    uint8_t *size;                                    /* where height and width are written in the copy */
} Frame;

static int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int word(const uint8_t *at) { return at[0] << 8 | at[1]; }

static void put_word(uint8_t *at, int64_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Reads SOF, of which `length` bytes are at `body`; returns -1 where it is of another kind. */
static int read_frame(Frame *frame, const uint8_t *body, size_t length, uint8_t *copy)
{
    if (frame->components || length < 6 || body[0] != 8) return -1;
    const int components = body[5];
    if (components < 1 || components > MOST_COMPONENTS || length != 6 + 3 * (size_t)components) return -1;
    int across = 1, down = 1;
    for (int i = 0; i < components; i++) {
        const int h = body[7 + 3 * i] >> 4, v = body[7 + 3 * i] & 15;
        if (h < 1 || h > 4 || v < 1 || v > 4) return -1;
        across = (int)most(across, h);
        down = (int)most(down, v);
    }
    frame->components = components;
    frame->height = word(body + 1);
    frame->width = word(body + 3);
    frame->edge_height = down;
    frame->edge_width = across;
    /* Of one component an MCU is a block, whatever factors it has. */
    frame->block_height = components == 1 ? 8 : 8 * down;
    frame->block_width = components == 1 ? 8 : 8 * across;
    frame->size = copy + 1;
    return 0;
}

/* Copies what is before the bits: tables, SOF, DRI and SOS, without comments and what programs add. Returns where the
 * bits begin, 0 where they are of another kind. */
static size_t copy_headers(const uint8_t *data, size_t size, uint8_t *out, size_t *written, Frame *frame)
{
    size_t at = 2;
    if (size < 4 || data[0] != 0xff || data[1] != SOI) return 0;
    memcpy(out, data, 2);
    *written = 2;
    while (at + 4 <= size && data[at] == 0xff) {
        const int marker = data[at + 1];
        if (marker == 0xff) { /* a byte that fills */
            at++;
            continue;
        }
        const size_t length = (size_t)word(data + at + 2);
        if (length < 2 || length + 2 > size - at) return 0;
        const uint8_t *body = data + at + 4;
        uint8_t *copy = out + *written;
        if ((marker & 0xf0) == 0xe0 || marker == COM) {
            at += length + 2;
            continue;
        }
        memcpy(copy, data + at, length + 2);
        *written += length + 2;
        at += length + 2;
        switch (marker) {
        case DQT:
        case DHT: break;
        case SOF_BASELINE:
        case SOF_EXTENDED:
            if (read_frame(frame, body, length - 2, copy + 4)) return 0;
            break;
        case DRI:
            if (length != 4) return 0;
            frame->interval = word(body);
            break;
        case SOS:
            /* One scan of everything. */
            return frame->components && body[0] == frame->components && length == 6 + 2 * (size_t)body[0] ? at : 0;
        default: return 0;
        }
    }
    return 0;
}

/* Returns the end of the interval that begins at `at`: the place of the marker behind it, or the end of the data. */
static size_t interval_end(const uint8_t *data, size_t size, size_t at)
{
    while (at < size) {
        const uint8_t *found = memchr(data + at, 0xff, size - at);
        if (!found) return size;
        at = (size_t)(found - data);
        if (at + 1 < size && data[at + 1] == 0) at += 2;
        else return at;
    }
    return size;
}

size_t excerpt_jpeg(const uint8_t *data, size_t size, int64_t height, int64_t width, Area area, uint8_t *out, Area *kept)
{
    Frame frame = {0};
    size_t written = 0, at = copy_headers(data, size, out, &written, &frame);
    if (!at || frame.interval < 1 || frame.height != height || frame.width != width) return 0;
    /* Intervals make a grid of cells where a row of MCUs holds several or several rows hold one. */
    const int64_t across = over(width, frame.block_width);
    const int64_t by_row = frame.interval % across == 0;
    if (!by_row && across % frame.interval) return 0;
    const int64_t cell_height = by_row ? frame.interval / across * frame.block_height : frame.block_height;
    const int64_t cell_width = by_row ? width : frame.interval * frame.block_width;
    const int64_t rows = over(height, cell_height), columns = over(width, cell_width);
    Area cells = {most(area.y0 - frame.edge_height, 0) / cell_height,
                  least(over(area.y1 + frame.edge_height, cell_height), rows),
                  most(area.x0 - frame.edge_width, 0) / cell_width,
                  least(over(area.x1 + frame.edge_width, cell_width), columns)};
    /* Chroma of one or two columns is not smoothed at all: a tile may end so shortly after a cell. */
    if (cells.x0 > 0 && least(cells.x1 * cell_width, width) - cells.x0 * cell_width <= 4 * frame.edge_width) cells.x0--;
    if (cells.y0 == 0 && cells.x0 == 0 && cells.x1 == columns) return 0;
    *kept = (Area){cells.y0 * cell_height, least(cells.y1 * cell_height, height), cells.x0 * cell_width,
                   least(cells.x1 * cell_width, width)};
    put_word(frame.size, kept->y1 - kept->y0);
    put_word(frame.size + 2, kept->x1 - kept->x0);
    int64_t taken = 0;
    const int64_t last = (cells.y1 - 1) * columns + cells.x1 - 1;
    for (int64_t cell = 0;; cell++) {
        const size_t end = interval_end(data, size, at);
        const int64_t row = cell / columns, column = cell % columns;
        if (row >= cells.y0 && column >= cells.x0 && column < cells.x1) {
            memcpy(out + written, data + at, end - at);
            written += end - at;
            if (cell == last) return written;
            out[written++] = 0xff;
            out[written++] = (uint8_t)(RST0 + taken++ % 8);
        }
        /* A marker that is missing, or another, leaves unknown which interval comes next. */
        if (end + 2 > size || data[end + 1] != RST0 + cell % 8) return 0;
        at = end + 2;
    }
}
