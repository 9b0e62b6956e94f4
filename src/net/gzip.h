/* gzip.h - an answer's body, compressed when that is wanted and gains something. */
#ifndef CHATD_NET_GZIP_H
#define CHATD_NET_GZIP_H

#include "chatd/http.h"

struct libdeflate_compressor;

/* The compressed bytes, *packed of them, for the caller to free; NULL when the body is to be sent as it is:
 * the client would rather have it so, it is too small or too large (http.h), or doesn't shrink. *compressor
 * is made at its first use, NULL before. */
char *gzip_pack(struct libdeflate_compressor **compressor, enum http_coding coding, const void *data,
                size_t length, size_t *packed);

void gzip_free(struct libdeflate_compressor *compressor); /* NULL is allowed */

#endif
