/* static.c - the page's files, which are part of the program (static_assets.S). */
#include "static.h"

#include <stddef.h>
#include <string.h>

#include "chatd/http.h"

/* The page needs nothing but this server: a script that somebody smuggled into a message finds nothing it may
 * load, and no other site may frame the page. 'self' lets it open WebSockets to its own host too (CSP level
 * 3). No-cache because names stay the same over releases. */
#define STATIC_HEADERS                                                                                    \
    "Cache-Control: no-cache\r\n"                                                                         \
    "X-Content-Type-Options: nosniff\r\n"                                                                 \
    "Content-Security-Policy: default-src 'self'; connect-src 'self'; object-src 'none'; "                \
    "base-uri 'none'; frame-ancestors 'none'; form-action 'self'\r\n"

extern const char asset_index_html[], asset_index_html_end[];
extern const char asset_chat_css[], asset_chat_css_end[];
extern const char asset_chat_js[], asset_chat_js_end[];
extern const char asset_client_js[], asset_client_js_end[];

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

static const struct file *find(const char *path)
{
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    }
    return NULL;
}

bool static_has(const char *path)
{
    return find(path) != NULL;
}

void static_respond(struct conn *conn, const char *path)
{
    const struct file *file = find(path);

    http_respond(conn, 200, file->type, STATIC_HEADERS, file->data, (size_t)(file->end - file->data));
}
