/* http_accept.c - what a client would rather have (RFC 9110 section 12.5), and what it has already (13.1.2).
 *
 * Every header is read once from its start to its end, whatever stands in it. An element that is not
 * well-formed counts as if it were not there. */
#include <string.h>
#include <strings.h>

#include "chatd/http.h"

enum { WEIGHT_FULL = 1000, WEIGHT_NONE = -1 };

struct piece {
    const char *data;
    size_t length;
};

/* One element of a list with its weight: `text/plain;version=0.0.4;q=0.3`, `gzip;q=0`. */
struct range {
    struct piece name;
    struct piece version; /* empty without that parameter */
    int weight;           /* 0 to WEIGHT_FULL */
};

/* Walks over all elements of all headers of one name. */
struct walk {
    const struct http_request *request;
    const char *name;
    size_t header; /* the next one to look at */
    struct piece rest;
};

static struct piece trim(struct piece piece)
{
    while (piece.length > 0 && strchr(" \t", piece.data[0]) != NULL)
        piece = (struct piece){piece.data + 1, piece.length - 1};
    while (piece.length > 0 && strchr(" \t", piece.data[piece.length - 1]) != NULL)
        piece.length--;
    return piece;
}

/* Cuts what stands before the next separator off the rest; one inside a quoted string is none. */
static struct piece cut(struct piece *rest, char separator)
{
    struct piece first = {rest->data, 0};
    bool quoted = false;

    while (first.length < rest->length && (quoted || first.data[first.length] != separator)) {
        if (first.data[first.length] == '"')
            quoted = !quoted;
        else if (quoted && first.data[first.length] == '\\' && first.length + 1 < rest->length)
            first.length++;
        first.length++;
    }
    rest->data += first.length;
    rest->length -= first.length;
    if (rest->length > 0)
        *rest = (struct piece){rest->data + 1, rest->length - 1};
    return trim(first);
}

static bool walk_next(struct walk *walk, struct piece *element)
{
    for (;;) {
        while (walk->rest.length > 0) {
            *element = cut(&walk->rest, ',');
            if (element->length > 0)
                return true;
        }
        while (walk->header < walk->request->header_count &&
               strcmp(walk->request->headers[walk->header].name, walk->name) != 0)
            walk->header++;
        if (walk->header == walk->request->header_count)
            return false;
        walk->rest.data = walk->request->headers[walk->header++].value;
        walk->rest.length = strlen(walk->rest.data);
    }
}

static bool is(struct piece piece, const char *text)
{
    return piece.length == strlen(text) && strncasecmp(piece.data, text, piece.length) == 0;
}

/* RFC 9110 section 12.4.2: 0 or 1 with at most three digits behind the point. */
static int read_weight(struct piece text)
{
    int weight, unit = WEIGHT_FULL / 10;

    if (text.length == 0 || text.length > 5 || (text.data[0] != '0' && text.data[0] != '1') ||
        (text.length > 1 && text.data[1] != '.'))
        return WEIGHT_NONE;
    weight = (text.data[0] - '0') * WEIGHT_FULL;
    for (size_t i = 2; i < text.length; i++, unit /= 10) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return WEIGHT_NONE;
        weight += (text.data[i] - '0') * unit;
    }
    return weight <= WEIGHT_FULL ? weight : WEIGHT_NONE;
}

static bool read_range(struct piece element, struct range *range)
{
    *range = (struct range){.name = cut(&element, ';'), .weight = WEIGHT_FULL};
    while (element.length > 0 && range->weight != WEIGHT_NONE) {
        struct piece value = cut(&element, ';'), key = cut(&value, '=');

        value = trim(value);
        if (value.length >= 2 && value.data[0] == '"' && value.data[value.length - 1] == '"')
            value = (struct piece){value.data + 1, value.length - 2};
        if (is(key, "q"))
            range->weight = read_weight(value);
        else if (is(key, "version"))
            range->version = value;
    }
    return range->weight != WEIGHT_NONE;
}

static bool next_range(struct walk *walk, struct range *range)
{
    struct piece element;

    while (walk_next(walk, &element)) {
        if (read_range(element, range))
            return true;
    }
    return false;
}

/* How exactly a range means a type: 0 not at all, 1 by `*`/`*`, 2 by `text`/`*`, 3 by its name. */
static int closeness(const struct range *range, const struct http_type *type)
{
    size_t major = strcspn(type->name, "/") + 1;

    if (is(range->name, "*/*"))
        return 1;
    if (range->name.length == major + 1 && strncasecmp(range->name.data, type->name, major) == 0 &&
        range->name.data[major] == '*')
        return 2;
    if (!is(range->name, type->name))
        return 0;
    return range->version.length == 0 || is(range->version, type->version) ? 3 : 0;
}

/* The closest range says how much the type is wanted; *close is 0 when none means it. */
static int wanted(const struct http_request *request, const struct http_type *type, int *close)
{
    struct walk walk = {.request = request, .name = "accept"};
    struct range range;
    int weight = 0;

    *close = 0;
    while (next_range(&walk, &range)) {
        int now = closeness(&range, type);

        if (now > *close || (now > 0 && now == *close && range.weight > weight)) {
            *close = now;
            weight = range.weight;
        }
    }
    return weight;
}

size_t http_choose(const struct http_request *request, const struct http_type *types, size_t count)
{
    int best_weight = 0, best_close = 0;
    size_t best = 0;

    for (size_t i = 0; i < count; i++) {
        int close, weight = wanted(request, &types[i], &close);

        if (weight > best_weight || (weight > 0 && weight == best_weight && close > best_close)) {
            best = i;
            best_weight = weight;
            best_close = close;
        }
    }
    return best;
}

enum http_coding http_coding(const struct http_request *request)
{
    struct walk walk = {.request = request, .name = "accept-encoding"};
    int gzip = WEIGHT_NONE, identity = WEIGHT_NONE, other = WEIGHT_NONE;
    struct range range;

    while (next_range(&walk, &range)) {
        if (is(range.name, "gzip") || is(range.name, "x-gzip"))
            gzip = range.weight;
        else if (is(range.name, "identity"))
            identity = range.weight;
        else if (is(range.name, "*"))
            other = range.weight;
    }
    gzip = gzip != WEIGHT_NONE ? gzip : other;
    identity = identity != WEIGHT_NONE ? identity : other;
    if (gzip <= 0 || gzip < identity)
        return HTTP_IDENTITY;
    return identity == 0 ? HTTP_GZIP_ONLY : HTTP_GZIP;
}

bool http_has_etag(const struct http_request *request, const char *etag)
{
    struct walk walk = {.request = request, .name = "if-none-match"};
    struct piece element;

    while (walk_next(&walk, &element)) {
        if (is(element, "*"))
            return true;
        if (element.length > 2 && memcmp(element.data, "W/", 2) == 0)
            element = (struct piece){element.data + 2, element.length - 2};
        if (element.length == strlen(etag) && memcmp(element.data, etag, element.length) == 0)
            return true;
    }
    return false;
}
