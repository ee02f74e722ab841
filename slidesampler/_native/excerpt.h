/* Of a JPEG with restart markers, the part that an area needs, as a smaller JPEG. */
#ifndef SLIDESAMPLER_EXCERPT_H
#define SLIDESAMPLER_EXCERPT_H

#include "decode.h"

/* Writes a JPEG of only those restart intervals of a baseline JPEG that an area needs, a sample of chroma around it
 * included, so that its pixels are those of the whole.
 *
 * `out` has room for `size` bytes. Returns the bytes written, and in `kept` the part of the tile that they show; or 0
 * where the stream is not of that kind, not of a tile of that size, damaged, or needed whole: then `out` holds anything
 * and the stream is to be decoded as it is.
 */
size_t excerpt_jpeg(const uint8_t *data, size_t size, int64_t height, int64_t width, Area area, uint8_t *out, Area *kept);

#endif
