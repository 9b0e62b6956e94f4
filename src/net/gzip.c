/* gzip.c - makes an answer smaller. One compressor for all of a net's connections: an answer is compressed in
 * one go, so nothing of it stays behind. */
#include "gzip.h"

#include <libdeflate.h>
#include <stdlib.h>

/* The lowest level takes a third of the time of the usual one (6) and makes chat history a fifth larger. */
enum { GZIP_LEVEL = 1 };

char *gzip_pack(struct libdeflate_compressor **compressor, enum http_coding coding, const void *data,
                size_t length, size_t *packed)
{
    bool must = coding == HTTP_GZIP_ONLY;
    size_t room;
    char *out;

    if (coding == HTTP_IDENTITY || length > HTTP_GZIP_MAX || (!must && length < HTTP_GZIP_MIN))
        return NULL;
    if (*compressor == NULL)
        *compressor = libdeflate_alloc_compressor(GZIP_LEVEL);
    room = must ? libdeflate_gzip_compress_bound(*compressor, length) : length - 1;
    out = malloc(room);
    if (*compressor == NULL || out == NULL)
        abort();
    *packed = libdeflate_gzip_compress(*compressor, data, length, out, room);
    if (*packed == 0) { /* it didn't fit, so it gains nothing */
        free(out);
        return NULL;
    }
    return out;
}

void gzip_free(struct libdeflate_compressor *compressor)
{
    if (compressor != NULL)
        libdeflate_free_compressor(compressor);
}
