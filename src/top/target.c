/* target.c - addresses, by libcurl's own parser. */
#include "target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#define DEFAULT_PORT "5000"

/* A bare IPv6 address has colons that are no port's. */
static char *with_scheme(const char *text)
{
    const char *colon = strchr(text, ':');
    bool bare6 = text[0] != '[' && colon && strchr(colon + 1, ':');
    char *url;

    if (strstr(text, "://"))
        return strdup(text);
    return asprintf(&url, bare6 ? "http://[%s]" : "http://%s", text) < 0 ? NULL : url;
}

static char *part(CURLU *address, CURLUPart what)
{
    char *text = NULL;

    return curl_url_get(address, what, &text, 0) == CURLUE_OK ? text : NULL;
}

/* Without the slash at its end, in memory of free(). */
static char *trimmed(char *text)
{
    size_t length = strlen(text);
    char *copy;

    while (length > 0 && text[length - 1] == '/')
        length--;
    copy = strndup(text, length);
    curl_free(text);
    return copy;
}

static char *full(CURLU *address)
{
    char *text = part(address, CURLUPART_URL);

    return text ? trimmed(text) : NULL;
}

static bool take(CURLU *address, const char *text, bool scheme_given)
{
    char *scheme, *port;
    bool web;

    if (curl_url_set(address, CURLUPART_URL, text, 0) != CURLUE_OK)
        return false;
    scheme = part(address, CURLUPART_SCHEME);
    web = scheme && (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    curl_free(scheme);
    if (!web)
        return false;
    port = part(address, CURLUPART_PORT);
    if (!port && !scheme_given)
        curl_url_set(address, CURLUPART_PORT, DEFAULT_PORT, 0);
    curl_free(port);
    curl_url_set(address, CURLUPART_QUERY, NULL, 0);
    curl_url_set(address, CURLUPART_FRAGMENT, NULL, 0);
    return true;
}

bool target_parse(const char *text, char **url, char **label)
{
    static const char plain[] = "http://";
    bool scheme_given = strstr(text, "://") != NULL;
    CURLU *address = curl_url();
    char *given = with_scheme(text);

    *url = *label = NULL;
    if (address && given && take(address, given, scheme_given)) {
        *url = full(address);
        curl_url_set(address, CURLUPART_USER, NULL, 0);
        curl_url_set(address, CURLUPART_PASSWORD, NULL, 0);
        *label = full(address);
    }
    if (*label && strncmp(*label, plain, strlen(plain)) == 0)
        memmove(*label, *label + strlen(plain), strlen(*label + strlen(plain)) + 1);
    free(given);
    curl_url_cleanup(address);
    if (*url && *label)
        return true;
    free(*url);
    free(*label);
    return false;
}
