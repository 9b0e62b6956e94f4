/* rules.c - the alerts for Prometheus. What fires and clears there is what fires and clears here: above the
 * threshold, or above `clear` while ALERTS, Prometheus' own record, says that it fires; `keep_firing_for` is
 * the time it has to stay down. */
#include "chatd/rules.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "alerts_shared.h"

enum {
    EXIT_USAGE = 2,
    WINDOW_LEAST_S = 60, /* a rate over less than a few scrapes is none */
};

static void add_duration(struct buf *out, int64_t ms)
{
    if (ms % 1000 == 0)
        buf_printf(out, "%llds", (long long)(ms / 1000));
    else
        buf_printf(out, "%lldms", (long long)ms);
}

/* The row's expression for this setting: with its window, and scaled where that had to be made longer. */
static void add_value(struct buf *out, const struct alerts_row *row, const struct config_alert *setting)
{
    int64_t window_s = setting->window_ms / 1000;
    const char *from = row->expr, *mark;
    bool scaled = window_s > 0 && window_s < WINDOW_LEAST_S;

    if (scaled)
        buf_add_literal(out, "(");
    while ((mark = strstr(from, "$w"))) {
        buf_add(out, from, (size_t)(mark - from));
        buf_printf(out, "%llds", (long long)(scaled ? WINDOW_LEAST_S : window_s));
        from = mark + strlen("$w");
    }
    buf_add_string(out, from);
    if (scaled)
        buf_printf(out, ") * %lld / %d", (long long)window_s, WINDOW_LEAST_S);
}

static void add_expr(struct buf *out, const struct alerts_row *row, const struct config_alert *setting)
{
    buf_add_literal(out, "        expr: >-\n          ");
    add_value(out, row, setting);
    buf_printf(out, " > %lld\n", (long long)setting->threshold);
    if (setting->clear == setting->threshold)
        return;
    buf_add_literal(out, "          or (");
    add_value(out, row, setting);
    buf_printf(out,
               " > %lld and ignoring (alertname, alertstate, severity) "
               "ALERTS{alertname=\"%s\", alertstate=\"firing\"})\n",
               (long long)setting->clear, row->title);
}

/* In single quotes, where only a quote is special. */
static void add_quoted(struct buf *out, const char *name, const char *text)
{
    buf_printf(out, "          %s: '", name);
    for (; *text != '\0'; text++)
        buf_printf(out, *text == '\'' ? "''" : "%c", *text);
    buf_add_literal(out, "'\n");
}

static void add_rule(struct buf *out, const struct alerts_row *row, const struct config_alert *setting)
{
    buf_printf(out, "      - alert: %s\n", row->title);
    add_expr(out, row, setting);
    if (setting->for_ms > 0) {
        buf_add_literal(out, "        for: ");
        add_duration(out, setting->for_ms);
        buf_add_literal(out, "\n        keep_firing_for: ");
        add_duration(out, setting->for_ms);
        buf_add_literal(out, "\n");
    }
    buf_printf(out, "        labels:\n          severity: %s\n        annotations:\n", row->severity);
    add_quoted(out, "summary", row->summary);
    add_quoted(out, "description", row->advice);
    buf_printf(out, "          value: '{{ $value | printf \"%%.2f\" }} %s'\n", row->unit);
}

void rules_print(const struct config *config, FILE *out)
{
    struct buf text = BUF_INIT;
    bool any = false;

    buf_add_literal(&text,
                    "# What chatd watches over, for Prometheus 2.42 or newer: the output of `chatd rules`.\n"
                    "# The levels are the alert_... settings: make it anew when those change.\n"
                    "groups:\n"
                    "  - name: chatd\n"
                    "    rules:");
    for (unsigned i = 0; i < ALERTS_COUNT; i++) {
        const struct config_alert *setting = alerts_setting(config, i);

        if (!config_alert_on(setting))
            continue;
        buf_add_string(&text, any ? "" : "\n");
        any = true;
        add_rule(&text, &alerts_rows[i], setting);
    }
    buf_add_string(&text, any ? "" : " []\n");
    fwrite(text.data, 1, text.length, out);
    buf_deinit(&text);
}

static void print_usage(FILE *out)
{
    fputs("usage: chatd rules [-c FILE] [-h]\n"
          "\n"
          "Prints the alerts of these settings, and of the environment, as a rules file for Prometheus.\n"
          "\n"
          "  -c FILE  read settings from FILE; the environment wins over it\n"
          "  -h       print this (also --help)\n",
          out);
}

int rules_main(int argc, char **argv)
{
    static const struct option words[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    static struct config config;
    static char error[CONFIG_ERROR_MAX];
    const char *file = NULL;
    int option;

    while ((option = getopt_long(argc, argv, "c:h", words, NULL)) != -1) {
        switch (option) {
        case 'c':
            file = optarg;
            break;
        case 'h':
            print_usage(stdout);
            return EXIT_SUCCESS;
        default:
            print_usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (config_load(&config, file, error) != 0) {
        fprintf(stderr, "chatd: wrong settings\n%s\n", error);
        return EXIT_FAILURE;
    }
    rules_print(&config, stdout);
    if (fflush(stdout) == 0)
        return EXIT_SUCCESS;
    perror("chatd: standard output");
    return EXIT_FAILURE;
}
