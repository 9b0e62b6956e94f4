/* sample.c - reads the pages of a server and compares two readings. */
#include "sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"

static const char *const histograms[SAMPLE_HISTOGRAMS] = {
    [SAMPLE_DELIVERY] = "chatd_delivery_latency_seconds_bucket",
    [SAMPLE_STORE] = "chatd_store_commit_seconds_bucket",
    [SAMPLE_BUS] = "chatd_bus_call_seconds_bucket",
    [SAMPLE_LOOP] = "chatd_loop_turn_seconds_bucket",
};

/* One line without its end: `name{le="0.005"} 12`. Others are passed over. */
static void read_line(struct sample *sample, const char *line)
{
    size_t name = strcspn(line, "{");
    double bound, count;
    char *rest;

    if (strncmp(line + name, "{le=\"", 5) != 0)
        return;
    bound = strtod(line + name + 5, &rest); /* knows +Inf */
    if (rest[0] != '"' || rest[1] != '}')
        return;
    count = strtod(rest + 2, NULL);
    for (int i = 0; i < SAMPLE_HISTOGRAMS; i++) {
        struct sample_buckets *buckets = &sample->buckets[i];

        if (strlen(histograms[i]) != name || strncmp(line, histograms[i], name) != 0 ||
            buckets->count == SAMPLE_BUCKETS_MAX)
            continue;
        buckets->bounds[buckets->count] = bound;
        buckets->counts[buckets->count++] = count;
    }
}

static void read_text(struct sample *sample, const struct fetch_answer *answer)
{
    char *text, *line, *next;

    if (answer->status != 200 || !answer->text || answer->body.length == 0)
        return;
    text = malloc(answer->body.length + 1);
    if (!text)
        return;
    memcpy(text, answer->body.data, answer->body.length);
    text[answer->body.length] = '\0';
    for (line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        read_line(sample, line);
    }
    free(text);
}

static json_t *parse(const struct fetch_answer *answer)
{
    return answer->body.length > 0 ? json_loadb(answer->body.data, answer->body.length, 0, NULL) : NULL;
}

static bool is_list(const json_t *value)
{
    return json_is_array(value) && json_array_size(value) <= SAMPLE_LIST_MAX;
}

/* The list, with a reference of its own. */
static json_t *parse_alerts(const struct fetch_answer *answer)
{
    json_t *root = answer->status == 200 ? parse(answer) : NULL;
    json_t *list = json_incref(json_object_get(root, "alerts"));

    json_decref(root);
    if (is_list(list))
        return list;
    json_decref(list);
    return NULL;
}

/* Both are there in every version. */
static bool is_ours(const json_t *metrics)
{
    return json_is_number(json_object_get(metrics, "connections")) &&
           is_list(json_object_get(metrics, "workers"));
}

struct sample *sample_new(const struct fetch_answer answers[FETCH_PAGES], char error[SAMPLE_ERROR_MAX])
{
    json_t *metrics = answers[FETCH_METRICS].status == 200 ? parse(&answers[FETCH_METRICS]) : NULL;
    struct sample *sample = is_ours(metrics) ? calloc(1, sizeof(*sample)) : NULL;

    if (!sample) {
        snprintf(error, SAMPLE_ERROR_MAX, "not chatd: /metrics is answered with %ld and no counters of ours",
                 answers[FETCH_METRICS].status);
        json_decref(metrics);
        return NULL;
    }
    sample->at_ms = clock_monotonic_ms();
    sample->metrics = metrics;
    read_text(sample, &answers[FETCH_TEXT]);
    sample->health = parse(&answers[FETCH_HEALTH]); /* 503 has a body as well */
    sample->alerts = parse_alerts(&answers[FETCH_ALERTS]);
    return sample;
}

void sample_free(struct sample *sample)
{
    if (!sample)
        return;
    json_decref(sample->metrics);
    json_decref(sample->health);
    json_decref(sample->alerts);
    free(sample);
}

double sample_number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

const char *sample_string(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

const json_t *sample_worker(const struct sample *sample, double number)
{
    const json_t *workers = sample ? json_object_get(sample->metrics, "workers") : NULL;

    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *worker = json_array_get(workers, i);

        if (sample_number(worker, "worker") == number)
            return worker;
    }
    return NULL;
}

/* When the master was started; both clocks are read at once, so it is the same number in every answer. */
static double started(const struct sample *sample)
{
    return sample_number(sample->metrics, "time") - sample_number(sample->metrics, "uptime_ms");
}

double sample_seconds(const struct sample *before, const struct sample *now)
{
    double theirs, ours;

    if (!before || !now || started(before) != started(now))
        return (double)NAN;
    ours = (double)(now->at_ms - before->at_ms) / 1e3;
    theirs = (sample_number(now->metrics, "time") - sample_number(before->metrics, "time")) / 1e3;
    /* Answers may have been on their way for up to a round each. */
    return theirs > 0 && fabs(theirs - ours) <= FETCH_ROUND_MS / 1e3 ? theirs : ours;
}

double sample_rate(const json_t *before, const json_t *now, const char *name, double seconds)
{
    double rise = sample_number(now, name) - sample_number(before, name);

    return seconds > 0 && rise >= 0 ? rise / seconds : (double)NAN;
}

double sample_percentile(const struct sample_buckets *before, const struct sample_buckets *now,
                         double fraction, double *last)
{
    double low = 0, below = 0, total, rank;

    if (now->count < 2 || before->count != now->count)
        return (double)NAN;
    *last = now->bounds[now->count - 2];
    total = now->counts[now->count - 1] - before->counts[now->count - 1];
    if (!(total > 0))
        return (double)NAN;
    rank = total * fraction;
    for (unsigned i = 0; i + 1 < now->count; i++) {
        double upto = now->counts[i] - before->counts[i];

        if (upto < below)
            return (double)NAN; /* a counter that fell: started again */
        if (upto > below && upto >= rank)
            return low + (now->bounds[i] - low) * (rank - below) / (upto - below);
        below = upto;
        low = now->bounds[i];
    }
    return (double)INFINITY;
}
