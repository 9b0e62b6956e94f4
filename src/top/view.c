/* view.c - the sheet: one line for all, then a block for each server with its workers. */
#include "view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chatd/clock.h"

static const char *const orders[VIEW_ORDERS] = {"number", "connections", "messages", "cpu", "memory"};

/* Two readings of the same object, and the seconds between them. */
struct change {
    const json_t *before, *now;
    double seconds;
};

const char *view_order_word(enum view_order order)
{
    return orders[order];
}

static double rate(const struct change *change, const char *name)
{
    return sample_rate(change->before, change->now, name, change->seconds);
}

static struct change change_of(const struct view_server *server)
{
    struct change change = {.seconds = sample_seconds(server->before, server->now)};

    if (server->before)
        change.before = server->before->metrics;
    if (server->now)
        change.now = server->now->metrics;
    return change;
}

/* `  name value`, with what belongs behind the number. */
static void add_count(struct sheet *sheet, const char *name, double value, const char *unit)
{
    char number[SHEET_NUMBER_MAX];

    sheet_add(sheet, SHEET_PLAIN, "  %s %s%s", name, sheet_count(value, number), unit);
}

static void add_bytes(struct sheet *sheet, const char *name, double value, const char *unit)
{
    char number[SHEET_NUMBER_MAX];

    sheet_add(sheet, SHEET_PLAIN, "  %s %s%s", name, sheet_bytes(value, number), unit);
}

static double order_value(enum view_order order, const struct change *change)
{
    double value = 0;

    switch (order) {
    case VIEW_CONNECTIONS:
        value = sample_number(change->now, "connections");
        break;
    case VIEW_MESSAGES:
        value = rate(change, "messages_total");
        break;
    case VIEW_CPU:
        value = rate(change, "process_cpu_seconds_total");
        break;
    case VIEW_MEMORY:
        value = sample_number(change->now, "process_resident_memory_bytes");
        break;
    case VIEW_NUMBER:
    case VIEW_ORDERS:
        break;
    }
    return isnan(value) ? -1 : value;
}

/* A place in the order: what is sorted by, and where it was before. */
struct place {
    double value;
    size_t index;
};

static int by_value(const void *a, const void *b)
{
    const struct place *one = a, *other = b;

    if (one->value != other->value)
        return one->value < other->value ? 1 : -1;
    return one->index < other->index ? -1 : 1;
}

static struct place *places_new(size_t count)
{
    struct place *places = calloc(count + 1, sizeof(*places));

    if (!places)
        abort();
    return places;
}

static void add_head(const struct view *view, struct sheet *sheet)
{
    double connections = 0, messages = 0, deliveries = 0;
    time_t now = time(NULL);
    size_t answering = 0;
    struct tm local;
    char clock[16];

    for (size_t i = 0; i < view->count; i++) {
        struct change change = change_of(&view->servers[i]);
        double rates[] = {rate(&change, "messages_total"), rate(&change, "deliveries_total")};

        if (!change.now)
            continue;
        answering++;
        connections += sample_number(change.now, "connections");
        messages += isnan(rates[0]) ? 0 : rates[0];
        deliveries += isnan(rates[1]) ? 0 : rates[1];
    }
    localtime_r(&now, &local);
    strftime(clock, sizeof(clock), "%H:%M:%S", &local);
    sheet_add(sheet, SHEET_STRONG, "chatd top %s", clock);
    sheet_add(sheet, answering < view->count ? SHEET_BAD : SHEET_PLAIN, "  servers %zu/%zu", answering,
              view->count);
    add_count(sheet, "connections", connections, "");
    add_count(sheet, "messages", messages, "/s");
    add_count(sheet, "deliveries", deliveries, "/s");
    sheet_add(sheet, SHEET_PLAIN, "  every %g s  by %s", view->interval, orders[view->order]);
    if (view->paused)
        sheet_add(sheet, SHEET_WARN, "  paused");
    sheet_end(sheet);
}

/* ---- a server ---- */

/* What /health calls ok is called ready here, as with the workers. Without it the counters have to do. */
static const char *state_of(const struct sample *sample)
{
    const char *status = sample_string(sample->health, "status");

    if (!status)
        return "no health";
    return strcmp(status, "ok") == 0 ? "ready" : status;
}

static enum sheet_style state_style(const char *state)
{
    if (strcmp(state, "ready") == 0)
        return SHEET_GOOD;
    return strcmp(state, "draining") == 0 || strcmp(state, "starting") == 0 ? SHEET_WARN : SHEET_BAD;
}

static void add_title(struct sheet *sheet, const struct view_server *server)
{
    const json_t *now = server->now->metrics;
    const char *state = state_of(server->now);
    const json_t *workers = json_object_get(now, "workers");
    char span[SHEET_NUMBER_MAX];

    sheet_foreign(sheet, SHEET_STRONG, server->label);
    sheet_add(sheet, SHEET_PLAIN, "  ");
    sheet_foreign(sheet, state_style(state), state);
    sheet_add(sheet, SHEET_PLAIN, "  version ");
    sheet_foreign(sheet, SHEET_PLAIN, sample_string(now, "version"));
    sheet_add(sheet, SHEET_PLAIN, "  up %s", sheet_span(sample_number(now, "uptime_ms") / 1e3, span));
    add_count(sheet, "workers", (double)json_array_size(workers), "");
    add_count(sheet, "respawns", sample_number(now, "respawns_total"), "");
    sheet_end(sheet);
}

static void add_traffic(struct sheet *sheet, const struct change *change)
{
    const json_t *now = change->now;
    char cpu[SHEET_NUMBER_MAX];

    add_count(sheet, "connections", sample_number(now, "connections"), "");
    add_count(sheet, "opened", rate(change, "connections_opened_total"), "/s");
    add_count(sheet, "http", sample_number(now, "http_connections"), "");
    add_count(sheet, "rooms", sample_number(now, "rooms"), "");
    add_count(sheet, "in rooms", sample_number(now, "memberships"), "");
    add_count(sheet, "slow readers", sample_number(now, "slow_readers"), "");
    sheet_end(sheet);
    add_count(sheet, "messages", rate(change, "messages_total"), "/s");
    add_count(sheet, "deliveries", rate(change, "deliveries_total"), "/s");
    add_bytes(sheet, "in", rate(change, "bytes_in_total"), "/s");
    add_bytes(sheet, "out", rate(change, "bytes_out_total"), "/s");
    sheet_add(sheet, SHEET_PLAIN, "  cpu %s%%",
              sheet_count(round(rate(change, "process_cpu_seconds_total") * 1000) / 10, cpu));
    add_bytes(sheet, "memory", sample_number(now, "process_resident_memory_bytes"), "");
    sheet_end(sheet);
}

/* One row of the table of times: percentiles of the last interval, the last or longest one, what waits. */
static void add_times(struct sheet *sheet, const struct view_server *server, const char *name,
                      enum sample_histogram which, const char *latest)
{
    static const struct sample_buckets none;
    bool comparable = !isnan(sample_seconds(server->before, server->now));
    const struct sample_buckets *before = comparable ? &server->before->buckets[which] : &none;
    char text[SHEET_NUMBER_MAX];

    sheet_add(sheet, SHEET_PLAIN, "  %-10s", name);
    for (int i = 0; i < 2; i++) {
        double last = 0,
               value = sample_percentile(before, &server->now->buckets[which], i ? 0.99 : 0.5, &last);
        char number[SHEET_NUMBER_MAX + 1];

        snprintf(number, sizeof(number), "%s%s", isinf(value) ? ">" : "",
                 sheet_seconds(isinf(value) ? last : value, text));
        sheet_add(sheet, SHEET_PLAIN, "  %10s", number);
    }
    sheet_add(sheet, SHEET_PLAIN, "  %10s",
              latest ? sheet_seconds(sample_number(server->now->metrics, latest), text) : "");
}

static void add_latencies(struct sheet *sheet, const struct view_server *server)
{
    const json_t *now = server->now->metrics;

    sheet_add(sheet, SHEET_HEAD, "  %-10s  %10s  %10s  %10s  %s", "TIMES", "P50", "P99", "LATEST", "WAITING");
    sheet_end(sheet);
    add_times(sheet, server, "delivery", SAMPLE_DELIVERY, NULL);
    add_bytes(sheet, "send queues", sample_number(now, "send_queue_bytes"), "");
    sheet_end(sheet);
    add_times(sheet, server, "store", SAMPLE_STORE, "store_latency_seconds");
    add_count(sheet, "queue", sample_number(now, "store_queue"), "");
    add_bytes(sheet, "of", sample_number(now, "store_queue_bytes"), "");
    add_count(sheet, "acks", sample_number(now, "ack_queue"), "");
    add_count(sheet, "spool", sample_number(now, "spool_messages"), "");
    sheet_end(sheet);
    add_times(sheet, server, "bus", SAMPLE_BUS, "bus_latency_seconds");
    add_count(sheet, "queue", sample_number(now, "bus_queue"), "");
    add_bytes(sheet, "of", sample_number(now, "bus_queue_bytes"), "");
    sheet_end(sheet);
    add_times(sheet, server, "loop turn", SAMPLE_LOOP, "loop_turn_max_seconds");
    sheet_end(sheet);
}

/* Only while something of the kind happens: `errors 3/s: rate_limited 2/s, bad_room 1/s`. */
static void add_family(struct sheet *sheet, const struct change *change, const char *title, const char *name,
                       const char *words)
{
    struct change split = {json_object_get(change->before, words), json_object_get(change->now, words),
                           change->seconds};
    double total = rate(change, name);
    const char *word, *comma = ":";
    char number[SHEET_NUMBER_MAX];
    json_t *value;

    if (!(total > 0))
        return;
    sheet_add(sheet, SHEET_WARN, "  %s %s/s", title, sheet_count(total, number));
    json_object_foreach((json_t *)split.now, word, value)
    {
        double before = sample_number(split.before, word); /* a word is there from its first time on */
        double rise = json_number_value(value) - (isnan(before) ? 0 : before);

        if (!(rise > 0))
            continue;
        sheet_add(sheet, SHEET_PLAIN, "%s ", comma);
        sheet_foreign(sheet, SHEET_PLAIN, word);
        sheet_add(sheet, SHEET_PLAIN, " %s/s", sheet_count(rise / split.seconds, number));
        comma = ",";
    }
    sheet_end(sheet);
}

static void add_health(struct sheet *sheet, const struct sample *sample)
{
    const json_t *parts = json_object_get(sample->health, "parts");
    const char *name, *comma = "";
    json_t *part;

    if (json_object_size(parts) == 0)
        return;
    sheet_add(sheet, SHEET_PLAIN, "  health");
    json_object_foreach((json_t *)parts, name, part)
    {
        const char *status = sample_string(part, "status"), *kind = sample_string(part, "kind");
        const char *error = sample_string(part, "error"), *since = sample_string(part, "since");
        bool ok = status && strcmp(status, "ok") == 0;

        sheet_add(sheet, SHEET_PLAIN, "%s ", comma);
        sheet_foreign(sheet, SHEET_PLAIN, name);
        if (kind) {
            sheet_add(sheet, SHEET_PLAIN, " (");
            sheet_foreign(sheet, SHEET_PLAIN, kind);
            sheet_add(sheet, SHEET_PLAIN, ")");
        }
        sheet_add(sheet, SHEET_PLAIN, " ");
        sheet_foreign(sheet, ok ? SHEET_GOOD : SHEET_BAD, status);
        if (!ok && since) {
            sheet_add(sheet, SHEET_PLAIN, " since ");
            sheet_foreign(sheet, SHEET_PLAIN, since);
        }
        if (error) {
            sheet_add(sheet, SHEET_PLAIN, ": ");
            sheet_foreign(sheet, SHEET_BAD, error);
        }
        comma = ",";
    }
    sheet_end(sheet);
}

/* A worker's line. */
static void add_worker(struct sheet *sheet, const struct change *change)
{
    static const char *const rates[] = {"messages_total", "deliveries_total"};
    static const char *const bytes[] = {"bytes_in_total", "bytes_out_total"};
    const json_t *now = change->now;
    bool draining = json_is_true(json_object_get(now, "draining"));
    bool ready = json_is_true(json_object_get(now, "ready"));
    const char *state = draining ? "draining" : ready ? "ready" : "starting";
    char text[SHEET_NUMBER_MAX], pid[SHEET_NUMBER_MAX];

    sheet_add(sheet, SHEET_PLAIN, "  %6s %8s  ", sheet_count(sample_number(now, "worker"), text),
              sheet_count(sample_number(now, "pid"), pid));
    sheet_add(sheet, state_style(state), "%-8s", state);
    sheet_add(sheet, SHEET_PLAIN, " %7s", sheet_count(sample_number(now, "connections"), text));
    for (int i = 0; i < 2; i++)
        sheet_add(sheet, SHEET_PLAIN, " %8s", sheet_count(rate(change, rates[i]), text));
    for (int i = 0; i < 2; i++)
        sheet_add(sheet, SHEET_PLAIN, " %7s", sheet_bytes(rate(change, bytes[i]), text));
    sheet_add(sheet, SHEET_PLAIN, " %6s",
              sheet_count(round(rate(change, "process_cpu_seconds_total") * 1000) / 10, text));
    sheet_add(sheet, SHEET_PLAIN, " %7s",
              sheet_bytes(sample_number(now, "process_resident_memory_bytes"), text));
    sheet_add(sheet, SHEET_PLAIN, " %9s", sheet_seconds(sample_number(now, "loop_turn_max_seconds"), text));
    sheet_end(sheet);
}

static void add_workers(const struct view *view, struct sheet *sheet, const struct view_server *server)
{
    const json_t *workers = json_object_get(server->now->metrics, "workers");
    size_t count = json_array_size(workers);
    struct change *changes = calloc(count + 1, sizeof(*changes));
    struct place *places = places_new(count);

    if (!changes)
        abort();
    for (size_t i = 0; i < count; i++) {
        changes[i] = change_of(server);
        changes[i].now = json_array_get(workers, i);
        changes[i].before = sample_worker(server->before, sample_number(changes[i].now, "worker"));
        places[i] = (struct place){order_value(view->order, &changes[i]), i};
    }
    qsort(places, count, sizeof(*places), by_value);
    sheet_add(sheet, SHEET_HEAD, "  %6s %8s  %-8s %7s %8s %8s %7s %7s %6s %7s %9s", "WORKER", "PID", "STATE",
              "CONN", "MSG/S", "DELIV/S", "IN/S", "OUT/S", "CPU%", "MEMORY", "LOOP MAX");
    sheet_end(sheet);
    for (size_t i = 0; i < count; i++)
        add_worker(sheet, &changes[places[i].index]);
    free(changes);
    free(places);
}

static void add_away(struct sheet *sheet, const struct view_server *server)
{
    char span[SHEET_NUMBER_MAX];

    sheet_foreign(sheet, SHEET_STRONG, server->label);
    if (server->trouble[0] == '\0') {
        sheet_add(sheet, SHEET_WARN, "  asked, no answer yet");
    } else {
        sheet_add(sheet, SHEET_BAD, "  away");
        sheet_add(sheet, SHEET_PLAIN,
                  " for %s: ", sheet_span((double)(clock_monotonic_ms() - server->since_ms) / 1e3, span));
        sheet_foreign(sheet, SHEET_PLAIN, server->trouble);
    }
    sheet_end(sheet);
}

/* Of each alert: what it is called, since when, how much where how much would be too much, and what to do. */
static void add_alerts(struct sheet *sheet, const struct sample *sample)
{
    const json_t *alert;
    size_t i;

    json_array_foreach(sample->alerts, i, alert)
    {
        static const char *const words[] = {"severity", "since", "advice"};
        char value[SHEET_NUMBER_MAX], threshold[SHEET_NUMBER_MAX];

        sheet_add(sheet, SHEET_BAD, "  ALERT ");
        sheet_foreign(sheet, SHEET_BAD, sample_string(alert, "name"));
        sheet_add(sheet, SHEET_PLAIN, "  %s, threshold %s ",
                  sheet_count(sample_number(alert, "value"), value),
                  sheet_count(sample_number(alert, "threshold"), threshold));
        sheet_foreign(sheet, SHEET_PLAIN, sample_string(alert, "unit"));
        for (size_t k = 0; k < sizeof(words) / sizeof(*words); k++) {
            if (!sample_string(alert, words[k]))
                continue;
            sheet_add(sheet, SHEET_PLAIN, "  ");
            sheet_foreign(sheet, SHEET_PLAIN, sample_string(alert, words[k]));
        }
        sheet_end(sheet);
    }
}

static void add_server(const struct view *view, struct sheet *sheet, const struct view_server *server)
{
    struct change change = change_of(server);

    sheet_end(sheet);
    if (!server->now) {
        add_away(sheet, server);
        return;
    }
    add_title(sheet, server);
    add_alerts(sheet, server->now);
    add_health(sheet, server->now);
    add_traffic(sheet, &change);
    add_family(sheet, &change, "errors", "errors_total", "errors_by_code");
    add_family(sheet, &change, "limits", "limited_total", "limited_by_kind");
    add_family(sheet, &change, "refused", "refused_total", "refused_by_reason");
    add_family(sheet, &change, "closed", "closes_total", "closes_by_reason");
    add_latencies(sheet, server);
    add_workers(view, sheet, server);
}

void view_draw(const struct view *view, struct sheet *sheet)
{
    struct place *places = places_new(view->count);

    sheet_clear(sheet);
    add_head(view, sheet);
    for (size_t i = 0; i < view->count; i++) {
        struct change change = change_of(&view->servers[i]);

        places[i] = (struct place){order_value(view->order, &change), i};
    }
    qsort(places, view->count, sizeof(*places), by_value);
    for (size_t i = 0; i < view->count; i++)
        add_server(view, sheet, &view->servers[places[i].index]);
    free(places);
}
