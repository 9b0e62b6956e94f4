/* http_request.c - reading a parsed request: headers by name, lists of tokens, query strings. */
#include <string.h>
#include <strings.h>

#include "chatd/http.h"
#include "internal.h"

const char *http_header(const struct http_request *request, const char *name)
{
    for (size_t i = 0; i < request->header_count; i++)
        if (strcmp(request->headers[i].name, name) == 0)
            return request->headers[i].value;
    return NULL;
}

size_t http_header_count(const struct http_request *request, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < request->header_count; i++)
        count += strcmp(request->headers[i].name, name) == 0;
    return count;
}

static bool list_has(const char *list, const char *token)
{
    size_t length = strlen(token);
    while (*list != '\0') {
        list += strspn(list, " \t,");
        size_t size = strcspn(list, ",");
        const char *next = list + size;
        while (size > 0 && (list[size - 1] == ' ' || list[size - 1] == '\t'))
            size--;
        if (size == length && strncasecmp(list, token, length) == 0)
            return true;
        list = next;
    }
    return false;
}

bool http_has_token(const struct http_request *request, const char *name, const char *token)
{
    for (size_t i = 0; i < request->header_count; i++)
        if (strcmp(request->headers[i].name, name) == 0 && list_has(request->headers[i].value, token))
            return true;
    return false;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool decode(const char *text, size_t length, char *out, size_t size, bool plus_is_space)
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < length ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < length ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (c == '\0' || used + 1 >= size)
            return false;
        out[used++] = c;
    }
    if (used >= size)
        return false;
    out[used] = '\0';
    return true;
}

bool http_decode(const char *text, size_t length, char *out, size_t size)
{
    return decode(text, length, out, size, false);
}

bool http_query(const char *query, const char *name, char *out, size_t size)
{
    size_t name_length = strlen(name);
    while (*query != '\0') {
        size_t length = strcspn(query, "&");
        if (length > name_length && query[name_length] == '=' && strncmp(query, name, name_length) == 0)
            return decode(query + name_length + 1, length - name_length - 1, out, size, true);
        query += length;
        query += *query == '&';
    }
    return false;
}
