/* checks.c - the table. */
#include "checks.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "checks_table.h"

static const struct {
    const char *name;
    checks_function run;
} table[] = {
    {"open files", checks_open_files},
    {"fs.nr_open", checks_nr_open},
    {"fs.file-max", checks_file_max},
    {"memory", checks_host_memory},
    {"control group memory", checks_group_memory},
    {"address space", checks_address_space},
    {"net.ipv4.tcp_mem", checks_tcp_memory},
    {"local ports", checks_ports},
    {"max_connections_per_ip", checks_per_address},
    {"nf_conntrack_max", checks_conntrack},
    {"net.core.somaxconn", checks_somaxconn},
    {"tcp_max_syn_backlog", checks_syn_backlog},
    {"netdev_max_backlog", checks_device_backlog},
    {"tasks", checks_tasks},
    {"vm.max_map_count", checks_mappings},
    {"cores", checks_cores},
    {"/dev/shm", checks_shared_memory},
    {"data_dir", checks_data_dir},
    {"Redis on this host", checks_redis_host},
    {"clock", checks_clock},
};

_Static_assert(sizeof(table) / sizeof(*table) <= CHECKS_MAX, "findings have a place for every check");

void checks_say(char out[CHECKS_TEXT], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(out, CHECKS_TEXT, format, arguments);
    va_end(arguments);
}

void checks_set(struct finding *out, const char *format, ...)
{
    va_list arguments;

    out->advice = CHECKS_SET;
    va_start(arguments, format);
    vsnprintf(out->now, CHECKS_TEXT, format, arguments);
    va_end(arguments);
}

/* What deploy/sysctl/90-chatd.conf sets, of what is advised here. */
static const struct {
    const char *key, *value;
} delivered[] = {
    {"fs.nr_open", "1048576"},
    {"net.core.somaxconn", "65535"},
    {"net.ipv4.tcp_max_syn_backlog", "65535"},
    {"net.core.netdev_max_backlog", "65535"},
    {"net.ipv4.ip_local_port_range", "1024 65535"},
    {"vm.overcommit_memory", "1"},
};

static bool is_delivered(const char *key, const char *value)
{
    for (size_t i = 0; i < sizeof(delivered) / sizeof(*delivered); i++) {
        if (strcmp(delivered[i].key, key) == 0)
            return strcmp(delivered[i].value, value) == 0;
    }
    return false;
}

void checks_sysctl(struct finding *out, const char *key, const char *value)
{
    const char *quote = strchr(value, ' ') ? "\"" : "";

    checks_say(out->now, "sysctl -w %s=%s%s%s", key, quote, value, quote);
    checks_say(out->keep, "/etc/sysctl.d/99-chatd.conf: %s = %s%s", key, value,
               is_delivered(key, value) ? ", or install deploy/sysctl/90-chatd.conf" : "");
}

void checks_sysctl_number(struct finding *out, const char *key, int64_t value)
{
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    checks_sysctl(out, key, text);
}

bool checks_unknown(struct finding *out)
{
    out->holds = FACTS_UNKNOWN;
    out->verdict = CHECKS_UNKNOWN;
    checks_say(out->value, "can't be read");
    return true;
}

int64_t checks_clamp(int64_t connections)
{
    return connections > 0 ? connections : 0;
}

int checks_run(const struct checks_input *input, struct finding findings[CHECKS_MAX])
{
    int count = 0;

    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        struct finding *finding = &findings[count];

        *finding = (struct finding){.name = table[i].name, .holds = FACTS_NONE};
        if (!table[i].run(input, finding))
            continue;
        if (finding->holds != FACTS_UNKNOWN && (finding->holds < input->demand || finding->holds == 0))
            finding->verdict = CHECKS_SHORT;
        count++;
    }
    return count;
}

int checks_first(const struct finding *findings, int count)
{
    int first = 0;

    for (int i = 1; i < count; i++) {
        if (findings[i].holds == FACTS_UNKNOWN)
            continue;
        if (findings[first].holds == FACTS_UNKNOWN || findings[i].holds < findings[first].holds)
            first = i;
    }
    return first;
}
