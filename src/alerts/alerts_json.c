/* alerts_json.c - GET /alerts. */
#include <string.h>

#include "alerts_shared.h"

static void add_string(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "\"%s\":", name);
    buf_add_json(out, value, strlen(value));
}

static void add_since(struct buf *out, const struct alerts_rule *rule)
{
    buf_add_literal(out, ",\"since\":");
    if (rule->since_ms != 0)
        alerts_add_time(out, rule->since_ms);
    else
        buf_add_literal(out, "null");
}

/* What the setting says is a number of `unit`; of an alert that is off there is none. */
static void add_level(struct buf *out, const char *name, const struct config_alert *setting, int64_t level)
{
    if (config_alert_on(setting))
        buf_printf(out, ",\"%s\":%lld", name, (long long)level);
    else
        buf_printf(out, ",\"%s\":null", name);
}

static void add_values(struct buf *out, const struct alerts_row *row, const struct alerts_rule *rule)
{
    buf_add_literal(out, ",\"value\":");
    if (rule->known)
        alerts_add_number(out, rule->value);
    else
        buf_add_literal(out, "null");
    add_level(out, "threshold", &rule->setting, rule->setting.threshold);
    buf_add_literal(out, ",");
    add_string(out, "unit", row->unit);
    if (rule->setting.window_ms != 0)
        buf_printf(out, ",\"window_ms\":%lld", (long long)rule->setting.window_ms);
}

static void add_alert(struct buf *out, const struct alerts_row *row, const struct alerts_rule *rule)
{
    buf_add_literal(out, "{");
    add_string(out, "name", row->name);
    buf_add_literal(out, ",");
    add_string(out, "severity", row->severity);
    add_since(out, rule);
    add_values(out, row, rule);
    buf_add_literal(out, ",");
    add_string(out, "summary", row->summary);
    buf_add_literal(out, ",");
    add_string(out, "advice", row->advice);
    buf_add_literal(out, "}");
}

static void add_rule(struct buf *out, const struct alerts_row *row, const struct alerts_rule *rule)
{
    static const char *const states[] = {"off", "ok", "pending", "firing"};

    buf_add_literal(out, "{");
    add_string(out, "name", row->name);
    buf_printf(out, ",\"setting\":\"alert_%s\",", row->name);
    add_string(out, "state", states[rule->state]);
    add_since(out, rule);
    add_values(out, row, rule);
    add_level(out, "clear", &rule->setting, rule->setting.clear);
    buf_printf(out, ",\"for_ms\":%lld}", (long long)rule->setting.for_ms);
}

static void add_all(struct buf *out, const struct alerts *alerts)
{
    const char *comma = "";
    bool firing = false;

    for (unsigned i = 0; i < ALERTS_COUNT; i++)
        firing = firing || alerts->rules[i].state == ALERTS_FIRING;
    buf_printf(out, "{\"status\":\"%s\",\"judged\":", firing ? "firing" : "ok");
    if (alerts->judged_ms != 0)
        alerts_add_time(out, alerts->judged_ms);
    else
        buf_add_literal(out, "null");
    buf_add_literal(out, ",\"alerts\":[");
    for (unsigned i = 0; i < ALERTS_COUNT; i++) {
        if (alerts->rules[i].state != ALERTS_FIRING)
            continue;
        buf_add_string(out, comma);
        comma = ",";
        add_alert(out, &alerts_rows[i], &alerts->rules[i]);
    }
    buf_add_literal(out, "],\"rules\":[");
    for (unsigned i = 0; i < ALERTS_COUNT; i++) {
        buf_add_string(out, i > 0 ? "," : "");
        add_rule(out, &alerts_rows[i], &alerts->rules[i]);
    }
    buf_printf(out, "],\"webhook\":{\"waiting\":%llu,\"dropped\":%llu}}",
               (unsigned long long)(alerts->head - alerts->tail), (unsigned long long)alerts->dropped);
}

void alerts_json(struct alerts *alerts, struct buf *out)
{
    alerts_lock(alerts);
    add_all(out, alerts);
    alerts_unlock(alerts);
}
