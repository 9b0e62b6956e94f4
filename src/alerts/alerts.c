/* alerts.c - the shared state: what fires, since when, and who is still to be told. */
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "alerts_shared.h"
#include "chatd/log.h"
#include "chatd/thread.h"

const struct alerts_row alerts_rows[ALERTS_COUNT] = {
#define ALERT(name, title, severity, unit, expr, summary, advice) \
    {#name, title, severity, unit, expr, summary, advice, offsetof(struct config, alert_##name)},
#include "chatd/alerts.def"
#undef ALERT
};

const struct config_alert *alerts_setting(const struct config *config, unsigned alert)
{
    return (const struct config_alert *)((const char *)config + alerts_rows[alert].setting);
}

struct alerts *alerts_map(void)
{
    struct alerts *alerts =
        mmap(NULL, sizeof(*alerts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int error;

    if (alerts == MAP_FAILED)
        return NULL;
    error = thread_mutex_init_shared(&alerts->seat);
    if (error == 0)
        error = thread_mutex_init_shared(&alerts->lock);
    if (error == 0)
        return alerts;
    munmap(alerts, sizeof(*alerts));
    errno = error;
    return NULL;
}

void alerts_unmap(struct alerts *alerts)
{
    if (!alerts)
        return;
    if (alerts->head != alerts->tail)
        log_warn("alert_webhook_left", "waiting=%llu", (unsigned long long)(alerts->head - alerts->tail));
    munmap(alerts, sizeof(*alerts));
}

/* ---- changes of state ---- */

static void log_change(const struct alerts_notice *notice)
{
    const struct alerts_row *row = &alerts_rows[notice->alert];

    if (notice->firing)
        log_warn("alert_firing", "alert=%s severity=%s value=%.2f threshold=%lld unit=%s summary=%s",
                 row->name, row->severity, notice->value, (long long)notice->setting.threshold, row->unit,
                 row->summary);
    else
        log_info("alert_resolved", "alert=%s value=%.2f clear=%lld unit=%s fired_ms=%lld", row->name,
                 notice->value, (long long)notice->setting.clear, row->unit,
                 (long long)(notice->ended_ms - notice->started_ms));
}

static void drop_oldest(struct alerts *alerts, const char *reason)
{
    const struct alerts_notice *oldest = &alerts->notices[alerts->tail % ALERTS_NOTICES_MAX];

    log_warn("alert_webhook_dropped", "alert=%s status=%s reason=%s", alerts_rows[oldest->alert].name,
             oldest->firing ? "firing" : "resolved", reason);
    alerts->dropped++;
    alerts->tail++;
}

/* Does what alerts->change says. May be begun again at any place: everything in it is absolute. */
static void do_change(struct alerts *alerts)
{
    const struct alerts_notice *notice = &alerts->change.notice;
    struct alerts_rule *rule = &alerts->rules[notice->alert];
    uint64_t number = alerts->change.number;

    rule->state = alerts->change.state;
    rule->since_ms = notice->firing ? notice->started_ms : notice->ended_ms;
    rule->turn_ms = 0;
    if (alerts->change.tell) {
        if (alerts->head == number && number - alerts->tail == ALERTS_NOTICES_MAX)
            drop_oldest(alerts, "too many wait");
        alerts->notices[number % ALERTS_NOTICES_MAX] = *notice;
        alerts->head = number + 1;
    }
    log_change(notice);
    atomic_store(&alerts->change.undone, false);
}

void alerts_lock(struct alerts *alerts)
{
    if (pthread_mutex_lock(&alerts->lock) != EOWNERDEAD)
        return;
    pthread_mutex_consistent(&alerts->lock);
    if (atomic_load(&alerts->change.undone))
        do_change(alerts);
}

void alerts_unlock(struct alerts *alerts)
{
    pthread_mutex_unlock(&alerts->lock);
}

/* One judgement under way. */
struct judge {
    struct alerts *alerts;
    int64_t now_ms, wall_ms;
    bool tell;
};

static void change(struct judge *judge, unsigned alert, enum alerts_state state)
{
    struct alerts *alerts = judge->alerts;
    const struct alerts_rule *rule = &alerts->rules[alert];
    bool firing = state == ALERTS_FIRING;

    alerts->change.notice = (struct alerts_notice){
        .alert = alert,
        .firing = firing,
        .value = rule->value,
        .started_ms = firing ? judge->wall_ms : rule->since_ms,
        .ended_ms = firing ? 0 : judge->wall_ms,
        .queued_ms = judge->now_ms,
        .setting = rule->setting,
    };
    alerts->change.state = state;
    alerts->change.tell = judge->tell;
    alerts->change.number = alerts->head;
    atomic_store(&alerts->change.undone, true);
    do_change(alerts);
}

static void enter(struct judge *judge, struct alerts_rule *rule, enum alerts_state state)
{
    if (rule->state == state && rule->since_ms != 0)
        return;
    rule->state = state;
    rule->since_ms = judge->wall_ms;
}

/* True once the value has been where it is for as long as the setting says. */
static bool held(struct judge *judge, struct alerts_rule *rule)
{
    if (rule->turn_ms == 0)
        rule->turn_ms = judge->now_ms;
    return judge->now_ms - rule->turn_ms >= rule->setting.for_ms;
}

static void judge_rule(struct judge *judge, unsigned alert, const struct config_alert *setting)
{
    struct alerts_rule *rule = &judge->alerts->rules[alert];
    bool fires = rule->state == ALERTS_FIRING;

    rule->setting = *setting;
    if (!config_alert_on(setting)) {
        if (fires)
            change(judge, alert, ALERTS_OFF);
        enter(judge, rule, ALERTS_OFF);
    } else if (!rule->known || (fires ? rule->value > setting->clear : rule->value <= setting->threshold)) {
        rule->turn_ms = 0;
        enter(judge, rule, fires ? ALERTS_FIRING : ALERTS_OK);
    } else if (held(judge, rule)) {
        change(judge, alert, fires ? ALERTS_OK : ALERTS_FIRING);
    } else {
        enter(judge, rule, fires ? ALERTS_FIRING : ALERTS_PENDING);
    }
}

/* ---- events of a window ---- */

static void take_sample(struct alerts *alerts, int64_t now_ms, const struct alerts_reading *reading)
{
    alerts->sample[alerts->samples % ALERTS_SAMPLES] = (struct alerts_sample){
        now_ms, reading->values[ALERTS_errors], reading->values[ALERTS_respawns]};
    alerts->samples++;
}

/* The counters as they were `window_ms` ago. Before the first sample they were at 0: the memory is as old as
 * the counters. */
static struct alerts_sample sample_before(const struct alerts *alerts, int64_t now_ms, int64_t window_ms)
{
    uint64_t kept = alerts->samples < ALERTS_SAMPLES ? alerts->samples : ALERTS_SAMPLES;
    const struct alerts_sample none = {.at_ms = 0};
    struct alerts_sample found = none;

    for (uint64_t i = 1; i <= kept; i++) {
        found = alerts->sample[(alerts->samples - i) % ALERTS_SAMPLES];
        if (found.at_ms <= now_ms - window_ms)
            return found;
    }
    return kept < ALERTS_SAMPLES ? none : found;
}

/* Makes the counters what came within the window. An alert that is off has none. */
static void count_events(const struct alerts *alerts, const struct config *config, int64_t now_ms,
                         struct alerts_reading *reading)
{
    double *values = reading->values;

    values[ALERTS_errors] -= sample_before(alerts, now_ms, config->alert_errors.window_ms).errors;
    values[ALERTS_respawns] -= sample_before(alerts, now_ms, config->alert_respawns.window_ms).respawns;
    reading->known[ALERTS_errors] = config->alert_errors.window_ms != 0;
    reading->known[ALERTS_respawns] = config->alert_respawns.window_ms != 0;
}

void alerts_judge(struct alerts *alerts, const struct config *config, const struct alerts_reading *reading,
                  int64_t now_ms, int64_t wall_ms, bool tell)
{
    struct judge judge = {alerts, now_ms, wall_ms, tell};
    struct alerts_reading counted = *reading;
    int64_t firing = 0;

    alerts_lock(alerts);
    take_sample(alerts, now_ms, reading);
    count_events(alerts, config, now_ms, &counted);
    for (unsigned i = 0; i < ALERTS_COUNT; i++) {
        alerts->rules[i].known = counted.known[i];
        alerts->rules[i].value = counted.values[i];
        judge_rule(&judge, i, alerts_setting(config, i));
        firing += alerts->rules[i].state == ALERTS_FIRING;
    }
    alerts->judged_ms = wall_ms;
    atomic_store(&alerts->memory_used, reading->memory_used);
    atomic_store(&alerts->memory_limit, reading->memory_limit);
    atomic_store(&alerts->firing, firing);
    alerts_unlock(alerts);
}

/* ---- notices ---- */

bool alerts_notice_first(struct alerts *alerts, struct alerts_notice *notice, uint64_t *number)
{
    bool found;

    alerts_lock(alerts);
    found = alerts->tail < alerts->head;
    *number = alerts->tail;
    if (found)
        *notice = alerts->notices[alerts->tail % ALERTS_NOTICES_MAX];
    alerts_unlock(alerts);
    return found;
}

void alerts_notice_done(struct alerts *alerts, uint64_t number, bool dropped)
{
    alerts_lock(alerts);
    if (alerts->tail == number && dropped)
        drop_oldest(alerts, "nobody took it in time");
    else if (alerts->tail == number)
        alerts->tail++;
    alerts_unlock(alerts);
}

void alerts_notices_clear(struct alerts *alerts)
{
    alerts_lock(alerts);
    alerts->tail = alerts->head;
    alerts_unlock(alerts);
}

/* ---- as text ---- */

void alerts_add_time(struct buf *out, int64_t wall_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    char text[32];

    gmtime_r(&seconds, &utc);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    buf_printf(out, "\"%s.%03dZ\"", text, (int)(wall_ms % 1000));
}

void alerts_add_number(struct buf *out, double value)
{
    buf_printf(out, "%.*f", value == (double)(int64_t)value ? 0 : 2, value);
}
