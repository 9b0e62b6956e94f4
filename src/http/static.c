/* static.c - the page's files, which are part of the program (static_assets.S). */
#include "static.h"

#include <libdeflate.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/buf.h"
#include "chatd/hash.h"
#include "chatd/metrics.h"

/* The page needs nothing but this server: a script that somebody smuggled into a message finds nothing it may
 * load, and no other site may frame the page. 'self' lets it open WebSockets to its own host too (CSP level
 * 3). No-cache, which asks again each time, because names stay the same over releases; the entity tag makes
 * that cheap. */
#define STATIC_HEADERS                                                                                    \
    "Vary: Accept-Encoding\r\n"                                                                           \
    "Cache-Control: no-cache\r\n"                                                                         \
    "X-Content-Type-Options: nosniff\r\n"                                                                 \
    "Content-Security-Policy: default-src 'self'; connect-src 'self'; object-src 'none'; "                \
    "base-uri 'none'; frame-ancestors 'none'; form-action 'self'\r\n"

extern const char asset_index_html[], asset_index_html_end[];
extern const char asset_chat_css[], asset_chat_css_end[];
extern const char asset_chat_js[], asset_chat_js_end[];
extern const char asset_client_js[], asset_client_js_end[];

/* The best level: it is done once. */
enum { STATIC_LEVEL = 12, STATIC_ETAG_SIZE = 32 };

struct file {
    const char *path;
    const char *type;
    const char *data;
    const char *end;
};

static const struct file files[] = {
    {"/", "text/html; charset=utf-8", asset_index_html, asset_index_html_end},
    {"/index.html", "text/html; charset=utf-8", asset_index_html, asset_index_html_end},
    {"/chat.css", "text/css; charset=utf-8", asset_chat_css, asset_chat_css_end},
    {"/chat.js", "text/javascript; charset=utf-8", asset_chat_js, asset_chat_js_end},
    {"/client.js", "text/javascript; charset=utf-8", asset_client_js, asset_client_js_end},
};

enum { FILE_COUNT = sizeof(files) / sizeof(*files) };

/* A file as it is sent: as it stands in the program, or compressed. */
struct variant {
    const char *data; /* NULL until somebody asked for it */
    size_t length;
    char etag[STATIC_ETAG_SIZE];
};

struct static_files {
    struct variant variants[FILE_COUNT][2];
};

static const struct file *find(const char *path)
{
    for (size_t i = 0; i < FILE_COUNT; i++) {
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    }
    return NULL;
}

bool static_has(const char *path)
{
    return find(path) != NULL;
}

static void compress(struct variant *variant, const struct file *file)
{
    size_t length = (size_t)(file->end - file->data);
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(STATIC_LEVEL);
    size_t room = libdeflate_gzip_compress_bound(compressor, length);
    char *data = malloc(room);

    if (!compressor || !data)
        abort();
    variant->length = libdeflate_gzip_compress(compressor, file->data, length, data, room);
    variant->data = data;
    libdeflate_free_compressor(compressor);
}

/* Two forms of the same file differ byte for byte, so their strong tags do, too (RFC 9110 section 8.8.3.3).
 * */
static const struct variant *get_variant(struct static_files *made, const struct file *file, bool gzip)
{
    struct variant *variant = &made->variants[file - files][gzip];

    if (variant->data)
        return variant;
    if (gzip)
        compress(variant, file);
    else
        *variant = (struct variant){.data = file->data, .length = (size_t)(file->end - file->data)};
    snprintf(variant->etag, sizeof(variant->etag), "\"%016llx%s\"",
             (unsigned long long)hash_bytes(file->data, (size_t)(file->end - file->data)),
             gzip ? "-gzip" : "");
    return variant;
}

/* As http.c does for what it compresses itself. */
static void count_packed(const struct http_request *request, const struct file *file,
                         const struct variant *variant)
{
    if (strcmp(request->method, "HEAD") == 0)
        return;
    metrics_add(http_compressed_total, 1);
    metrics_add(http_uncompressed_bytes_total, file->end - file->data);
    metrics_add(http_compressed_bytes_total, variant->length);
}

void static_respond(struct static_files **made, struct conn *conn, const struct http_request *request)
{
    const struct file *file = find(request->path);
    bool gzip = http_coding(request) != HTTP_IDENTITY;
    const struct variant *variant;
    struct buf headers = BUF_INIT;

    if (!*made)
        *made = calloc(1, sizeof(**made));
    if (!*made)
        abort();
    variant = get_variant(*made, file, gzip);
    buf_printf(&headers, "%sETag: %s\r\n", STATIC_HEADERS, variant->etag);
    if (http_has_etag(request, variant->etag)) {
        buf_add_literal(&headers, "\0");
        http_respond_plain(conn, 304, NULL, headers.data, NULL, 0);
    } else {
        buf_printf(&headers, "%s", gzip ? "Content-Encoding: gzip\r\n" : "");
        buf_add_literal(&headers, "\0");
        http_respond_plain(conn, 200, file->type, headers.data, variant->data, variant->length);
        if (gzip)
            count_packed(request, file, variant);
    }
    buf_deinit(&headers);
}

void static_free(struct static_files *made)
{
    if (!made)
        return;
    for (size_t i = 0; i < FILE_COUNT; i++)
        free((char *)made->variants[i][true].data);
    free(made);
}
