/* alerts_webhook.c - one call: the body as Alertmanager's webhooks have it
 * (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config), carried by libcurl. */
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "alerts_shared.h"
#include "chatd/clock.h"
#include "chatd/hash.h"

enum { CALL_TIMEOUT_MS = 5000, POLL_MS = 100 };

/* What Alertmanager says of an end that has not come. */
#define NO_END "\"0001-01-01T00:00:00Z\""

/* ---- the body ---- */

static void add_pair(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "\"%s\":", name);
    buf_add_json(out, value, strlen(value));
}

static void add_labels(struct buf *out, const struct alerts_row *row, const char *instance)
{
    buf_add_literal(out, "{");
    add_pair(out, "alertname", row->title);
    buf_add_literal(out, ",");
    add_pair(out, "instance", instance);
    buf_add_literal(out, ",\"job\":\"chatd\",");
    add_pair(out, "severity", row->severity);
    buf_add_literal(out, "}");
}

/* `1203.50 ms`, `3 errors within 60 s` */
static void add_level(struct buf *out, const char *name, double level, const struct alerts_row *row,
                      const struct config_alert *setting)
{
    buf_printf(out, ",\"%s\":\"", name);
    alerts_add_number(out, level);
    buf_printf(out, " %s", row->unit);
    if (setting->window_ms != 0) {
        buf_add_literal(out, " within ");
        alerts_add_number(out, (double)setting->window_ms / 1000);
        buf_add_literal(out, " s");
    }
    buf_add_literal(out, "\"");
}

static void add_annotations(struct buf *out, const struct alerts_row *row, const struct alerts_notice *notice)
{
    buf_add_literal(out, "{");
    add_pair(out, "summary", row->summary);
    buf_add_literal(out, ",");
    add_pair(out, "description", row->advice);
    add_level(out, "value", notice->value, row, &notice->setting);
    if (config_alert_on(&notice->setting))
        add_level(out, "threshold", (double)notice->setting.threshold, row, &notice->setting);
    buf_add_literal(out, "}");
}

static void add_alert(struct buf *out, const struct alerts_row *row, const struct alerts_notice *notice,
                      const struct buf *labels, const struct buf *annotations, const char *instance)
{
    buf_printf(out, "{\"status\":\"%s\",\"labels\":", notice->firing ? "firing" : "resolved");
    buf_add(out, labels->data, labels->length);
    buf_add_literal(out, ",\"annotations\":");
    buf_add(out, annotations->data, annotations->length);
    buf_add_literal(out, ",\"startsAt\":");
    alerts_add_time(out, notice->started_ms);
    buf_add_literal(out, ",\"endsAt\":");
    if (notice->firing)
        buf_add_literal(out, NO_END);
    else
        alerts_add_time(out, notice->ended_ms);
    buf_printf(out, ",\"generatorURL\":\"http://%s/alerts#%s\",\"fingerprint\":\"%016llx\"}", instance,
               row->name, (unsigned long long)hash_bytes(labels->data, labels->length));
}

void alerts_webhook_body(const struct alerts_notice *notice, const char *instance, struct buf *out)
{
    const struct alerts_row *row = &alerts_rows[notice->alert];
    struct buf labels = BUF_INIT, annotations = BUF_INIT;

    add_labels(&labels, row, instance);
    add_annotations(&annotations, row, notice);
    buf_printf(out,
               "{\"version\":\"4\",\"groupKey\":\"{}:{alertname=\\\"%s\\\", instance=\\\"%s\\\"}\","
               "\"truncatedAlerts\":0,\"status\":\"%s\",\"receiver\":\"chatd\","
               "\"groupLabels\":{\"alertname\":\"%s\",\"instance\":\"%s\"},\"commonLabels\":",
               row->title, instance, notice->firing ? "firing" : "resolved", row->title, instance);
    buf_add(out, labels.data, labels.length);
    buf_add_literal(out, ",\"commonAnnotations\":");
    buf_add(out, annotations.data, annotations.length);
    buf_printf(out, ",\"externalURL\":\"http://%s/alerts\",\"alerts\":[", instance);
    add_alert(out, row, notice, &labels, &annotations, instance);
    buf_add_literal(out, "]}");
    buf_deinit(&labels);
    buf_deinit(&annotations);
}

/* ---- the call ---- */

struct alerts_webhook {
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    char error[CURL_ERROR_SIZE];
    _Atomic int64_t cut_ms;
};

static size_t on_answer(char *data, size_t size, size_t count, void *arg)
{
    (void)data;
    (void)arg;
    return size * count; /* the status says all */
}

struct alerts_webhook *alerts_webhook_new(const char *url)
{
    struct alerts_webhook *webhook = calloc(1, sizeof(*webhook));
    CURL *easy;

    if (!webhook)
        return NULL;
    webhook->cut_ms = INT64_MAX;
    webhook->multi = curl_multi_init();
    webhook->easy = easy = curl_easy_init();
    webhook->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!webhook->multi || !easy || !webhook->headers) {
        alerts_webhook_free(webhook);
        return NULL;
    }
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "chatd/" CHATD_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, webhook->headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, webhook->error);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)CALL_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* who cuts the call doesn't wait for the resolver */
    return webhook;
}

void alerts_webhook_free(struct alerts_webhook *webhook)
{
    if (!webhook)
        return;
    curl_easy_cleanup(webhook->easy);
    curl_multi_cleanup(webhook->multi);
    curl_slist_free_all(webhook->headers);
    free(webhook);
}

static CURLcode run(struct alerts_webhook *webhook)
{
    int running = 1, left;
    const CURLMsg *message;

    while (curl_multi_perform(webhook->multi, &running) == CURLM_OK && running > 0) {
        if (clock_monotonic_ms() >= atomic_load(&webhook->cut_ms))
            return CURLE_ABORTED_BY_CALLBACK;
        curl_multi_poll(webhook->multi, NULL, 0, POLL_MS, NULL);
    }
    message = curl_multi_info_read(webhook->multi, &left);
    return message && message->msg == CURLMSG_DONE ? message->data.result : CURLE_FAILED_INIT;
}

int alerts_webhook_call(struct alerts_webhook *webhook, const struct buf *body, char error[ALERTS_ERROR_MAX])
{
    CURLcode code;
    long status = 0;

    webhook->error[0] = '\0';
    curl_easy_setopt(webhook->easy, CURLOPT_POSTFIELDS, body->data);
    curl_easy_setopt(webhook->easy, CURLOPT_POSTFIELDSIZE, (long)body->length);
    if (curl_multi_add_handle(webhook->multi, webhook->easy) != CURLM_OK) {
        snprintf(error, ALERTS_ERROR_MAX, "libcurl took no call");
        return -1;
    }
    code = run(webhook);
    curl_easy_getinfo(webhook->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(webhook->multi, webhook->easy);
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return ALERTS_WEBHOOK_CUT;
    if (code == CURLE_OK && status >= 200 && status <= 299)
        return 0;
    if (code == CURLE_OK)
        snprintf(error, ALERTS_ERROR_MAX, "the receiver answered %ld", status);
    else
        snprintf(error, ALERTS_ERROR_MAX, "%s",
                 webhook->error[0] != '\0' ? webhook->error : curl_easy_strerror(code));
    return -1;
}

void alerts_webhook_cut(struct alerts_webhook *webhook, int64_t due_ms)
{
    atomic_store(&webhook->cut_ms, due_ms);
    curl_multi_wakeup(webhook->multi);
}
