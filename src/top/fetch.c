/* fetch.c - the requests, by libcurl's multi interface. */
#include "fetch.h"

#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "chatd/clock.h"

static const char *const paths[FETCH_PAGES] = {"/metrics", "/metrics", "/health", "/alerts"};

struct fetch_target {
    struct fetch *fetch;
    struct fetch_target *next;
    char *url;
    on_fetched done;
    void *arg;
    CURL *easy;
    bool busy;
    enum fetch_page page;
    int64_t deadline_ms;
    char error[CURL_ERROR_SIZE];
    struct fetch_answer answers[FETCH_PAGES];
};

struct fetch {
    CURLM *multi;
    struct curl_slist *accept_text;
    struct fetch_target *targets;
};

struct fetch *fetch_new(void)
{
    struct fetch *fetch;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return NULL;
    fetch = calloc(1, sizeof(*fetch));
    if (!fetch)
        return NULL;
    fetch->multi = curl_multi_init();
    fetch->accept_text = curl_slist_append(NULL, "Accept: text/plain;version=0.0.4");
    if (fetch->multi && fetch->accept_text)
        return fetch;
    fetch_free(fetch);
    return NULL;
}

static void free_target(struct fetch_target *target)
{
    if (target->busy)
        curl_multi_remove_handle(target->fetch->multi, target->easy);
    if (target->easy)
        curl_easy_cleanup(target->easy);
    for (int i = 0; i < FETCH_PAGES; i++)
        buf_deinit(&target->answers[i].body);
    free(target->url);
    free(target);
}

void fetch_free(struct fetch *fetch)
{
    while (fetch->targets) {
        struct fetch_target *target = fetch->targets;

        fetch->targets = target->next;
        free_target(target);
    }
    if (fetch->multi)
        curl_multi_cleanup(fetch->multi);
    curl_slist_free_all(fetch->accept_text);
    free(fetch);
    curl_global_cleanup();
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct fetch_target *target = arg;
    struct buf *body = &target->answers[target->page].body;
    size_t length = size * count;

    if (length > FETCH_BODY_MAX - body->length)
        return 0; /* libcurl gives up the transfer */
    buf_add(body, data, length);
    return length;
}

struct fetch_target *fetch_add(struct fetch *fetch, const char *url, on_fetched done, void *arg)
{
    struct fetch_target *target = calloc(1, sizeof(*target));

    if (!target)
        return NULL;
    target->fetch = fetch;
    target->url = strdup(url);
    target->done = done;
    target->arg = arg;
    target->easy = curl_easy_init();
    if (!target->url || !target->easy) {
        free_target(target);
        return NULL;
    }
    curl_easy_setopt(target->easy, CURLOPT_PRIVATE, target);
    curl_easy_setopt(target->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(target->easy, CURLOPT_WRITEDATA, target);
    curl_easy_setopt(target->easy, CURLOPT_ERRORBUFFER, target->error);
    curl_easy_setopt(target->easy, CURLOPT_NOSIGNAL, 1L);
    /* A name server that hangs must not be waited for when the time is over. */
    curl_easy_setopt(target->easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(target->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(target->easy, CURLOPT_USERAGENT, "chatd-top");
    target->next = fetch->targets;
    fetch->targets = target;
    return target;
}

static const char *prepare(struct fetch_target *target)
{
    struct fetch_answer *answer = &target->answers[target->page];
    int64_t left = target->deadline_ms - clock_monotonic_ms();
    struct buf url = BUF_INIT;
    CURLcode code;

    answer->status = 0;
    answer->text = false;
    answer->body.length = 0;
    target->error[0] = '\0';
    if (left <= 0)
        return "no answer in time";
    buf_printf(&url, "%s%s", target->url, paths[target->page]);
    code = curl_easy_setopt(target->easy, CURLOPT_URL, url.data);
    buf_deinit(&url);
    curl_easy_setopt(target->easy, CURLOPT_TIMEOUT_MS, (long)left);
    curl_easy_setopt(target->easy, CURLOPT_HTTPHEADER,
                     target->page == FETCH_TEXT ? target->fetch->accept_text : NULL);
    return code == CURLE_OK ? NULL : curl_easy_strerror(code);
}

static void end_round(struct fetch_target *target, const char *error)
{
    target->busy = false;
    target->done(target->arg, target->answers, error);
}

/* The page's request joins those under way. */
static void ask(struct fetch_target *target)
{
    const char *error = prepare(target);

    if (!error && curl_multi_add_handle(target->fetch->multi, target->easy) != CURLM_OK)
        error = "libcurl takes no request";
    if (error)
        end_round(target, error);
}

void fetch_start(struct fetch_target *target)
{
    if (target->busy)
        return;
    target->busy = true;
    target->page = FETCH_METRICS;
    target->deadline_ms = clock_monotonic_ms() + FETCH_ROUND_MS;
    for (int i = 0; i < FETCH_PAGES; i++)
        target->answers[i].status = 0;
    ask(target);
}

bool fetch_busy(const struct fetch_target *target)
{
    return target->busy;
}

/* libcurl's own words name address and port, which stand in the line already. */
static const char *reason_of(const struct fetch_target *target, CURLcode code)
{
    long number = 0;

    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        return "unknown host";
    case CURLE_OPERATION_TIMEDOUT:
        return "no answer in time";
    case CURLE_GOT_NOTHING:
        return "closed without an answer";
    case CURLE_WRITE_ERROR:
        return "not chatd: an endless answer";
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
        return "not chatd: what answers doesn't speak HTTP";
    case CURLE_COULDNT_CONNECT:
        curl_easy_getinfo(target->easy, CURLINFO_OS_ERRNO, &number);
        return number != 0 ? strerror((int)number) : target->error;
    default:
        return target->error[0] != '\0' ? target->error : curl_easy_strerror(code);
    }
}

static void on_page(struct fetch_target *target, CURLcode code)
{
    struct fetch_answer *answer = &target->answers[target->page];
    char *type = NULL;

    curl_multi_remove_handle(target->fetch->multi, target->easy);
    if (code != CURLE_OK) {
        end_round(target, reason_of(target, code));
        return;
    }
    curl_easy_getinfo(target->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    curl_easy_getinfo(target->easy, CURLINFO_CONTENT_TYPE, &type);
    answer->text = type && strncmp(type, "text/plain", strlen("text/plain")) == 0;
    if (++target->page == FETCH_PAGES)
        end_round(target, NULL);
    else
        ask(target);
}

void fetch_wait(struct fetch *fetch, int fd, int timeout_ms)
{
    struct curl_waitfd extra = {.fd = fd, .events = CURL_WAIT_POLLIN};
    CURLMsg *message;
    int running;

    curl_multi_poll(fetch->multi, &extra, fd >= 0, timeout_ms, NULL);
    curl_multi_perform(fetch->multi, &running);
    while ((message = curl_multi_info_read(fetch->multi, &running))) {
        struct fetch_target *target;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&target);
        on_page(target, message->data.result);
    }
}
