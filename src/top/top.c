/* top.c - the subcommand: options, rounds, keys. */
#include "chatd/top.h"

#include <curses.h>
#include <errno.h>
#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "fetch.h"
#include "screen.h"
#include "target.h"
#include "view.h"

#define DEFAULT_TARGET "127.0.0.1:5000"

enum { EXIT_USAGE = 2, TURN_MS = 500, COUNT_MAX = 1000000 };

/* What + and - go through, in seconds. */
static const double intervals[] = {0.2, 0.5, 1, 2, 5, 10, 30, 60};
enum { INTERVALS = sizeof(intervals) / sizeof(*intervals), INTERVAL_DEFAULT = 2 };

struct top {
    const char *name; /* of the command, for messages */
    struct fetch *fetch;
    struct fetch_target **targets; /* one for each of view.servers */
    struct view view;
    struct sheet sheet;
    size_t interval; /* in the table */
    long sheets;     /* batch mode: how many to print; 0: the screen */
    bool changed;    /* the screen is behind */
    bool help;
};

static void print_usage(FILE *out)
{
    fputs(
        "usage: chatd top [-b] [-n COUNT] [-d SECONDS] [-h] [URL|HOST[:PORT] ...]\n"
        "\n"
        "Shows what servers do, all the time. Without an address: " DEFAULT_TARGET ".\n"
        "\n"
        "  -b          batch: print lines instead of using the screen, and end; so it is also when standard\n"
        "              output is no terminal\n"
        "  -n COUNT    print so many sheets in batch mode (1)\n"
        "  -d SECONDS  time between two readings: 0.2, 0.5, 1, 2, 5, 10, 30 or 60 (1)\n"
        "  -h          print this (also --help)\n"
        "\n"
        "The exit code is 1 when at the end a server did not answer. Press h for the keys.\n",
        out);
}

static void draw_help(struct sheet *sheet)
{
    static const char *const lines[] = {
        "chatd top: keys",
        "",
        "  q           quit",
        "  up, down    scroll by a line; Page Up, Page Down by a page; Home, End",
        "  s           order of servers and workers: number, connections, messages, cpu, memory",
        "  + -         time between two readings",
        "  p, space    pause",
        "  h, ?        this text, and back",
        "",
        "  Rates and percentiles are those of the last interval, counted by the server itself. A dash is "
        "what",
        "  isn't known: before the second reading, after a server's restart, or when nothing happened.",
        "  LATEST is the last commit of the store, the longest wait for Redis in the last second, the "
        "longest",
        "  loop turn of the last five seconds.",
    };

    sheet_clear(sheet);
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        sheet_add(sheet, i == 0 ? SHEET_STRONG : SHEET_PLAIN, "%s", lines[i]);
        sheet_end(sheet);
    }
}

/* ---- rounds ---- */

static void forget(struct view_server *server)
{
    sample_free(server->before);
    sample_free(server->now);
    server->before = server->now = NULL;
}

struct asked {
    struct top *top;
    size_t server;
};

static void on_round(void *arg, const struct fetch_answer answers[FETCH_PAGES], const char *error)
{
    const struct asked *asked = arg;
    struct view_server *server = &asked->top->view.servers[asked->server];
    char reason[SAMPLE_ERROR_MAX];
    struct sample *sample;

    asked->top->changed = true;
    snprintf(reason, sizeof(reason), "%s", error ? error : "");
    sample = error ? NULL : sample_new(answers, reason);
    if (!sample) {
        forget(server);
        if (server->trouble[0] == '\0')
            server->since_ms = clock_monotonic_ms();
        memcpy(server->trouble, reason, sizeof(reason));
        return;
    }
    server->trouble[0] = '\0';
    sample_free(server->before);
    server->before = server->now;
    server->now = sample;
}

static void start_round(struct top *top)
{
    for (size_t i = 0; i < top->view.count; i++)
        fetch_start(top->targets[i]);
}

static bool under_way(const struct top *top)
{
    for (size_t i = 0; i < top->view.count; i++) {
        if (fetch_busy(top->targets[i]))
            return true;
    }
    return false;
}

static int64_t interval_ms(const struct top *top)
{
    return (int64_t)(intervals[top->interval] * 1000);
}

/* ---- batch mode ---- */

static void finish_round(struct top *top)
{
    start_round(top);
    while (under_way(top))
        fetch_wait(top->fetch, -1, TURN_MS);
}

static void wait_until(struct top *top, int64_t until_ms)
{
    int64_t left;

    while ((left = until_ms - clock_monotonic_ms()) > 0)
        fetch_wait(top->fetch, -1, (int)left);
}

static bool all_answer(const struct top *top)
{
    for (size_t i = 0; i < top->view.count; i++) {
        if (!top->view.servers[i].now)
            return false;
    }
    return true;
}

/* The first round is only there for the others' rates. */
static int run_batch(struct top *top)
{
    int64_t due = clock_monotonic_ms();

    finish_round(top);
    for (long i = 0; i < top->sheets; i++) {
        due += interval_ms(top);
        wait_until(top, due);
        finish_round(top);
        view_draw(&top->view, &top->sheet);
        if (i > 0)
            putchar('\n');
        sheet_print(&top->sheet, stdout);
        if (fflush(stdout) != 0) {
            fprintf(stderr, "%s: standard output: %s\n", top->name, strerror(errno));
            return EXIT_FAILURE;
        }
    }
    return all_answer(top) ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- the screen ---- */

/* false: the user has seen enough. */
static bool on_key(struct top *top, struct screen *screen, int key)
{
    switch (key) {
    case 'q':
    case 'Q':
        return false;
    case 'h':
    case '?':
        top->help = !top->help;
        screen->top = 0;
        break;
    case 's':
        top->view.order = (top->view.order + 1) % VIEW_ORDERS;
        break;
    case 'p':
    case ' ':
        top->view.paused = !top->view.paused;
        break;
    case '+':
        top->interval += top->interval + 1 < INTERVALS;
        break;
    case '-':
        top->interval -= top->interval > 0;
        break;
    case KEY_UP:
        screen_scroll(screen, -1);
        break;
    case KEY_DOWN:
        screen_scroll(screen, 1);
        break;
    case KEY_PPAGE:
        screen_scroll(screen, -screen_page(screen));
        break;
    case KEY_NPAGE:
        screen_scroll(screen, screen_page(screen));
        break;
    case KEY_HOME:
        screen->top = 0;
        break;
    case KEY_END:
        screen_scroll(screen, (int)top->sheet.lines);
        break;
    default: /* KEY_RESIZE: painting is enough */
        break;
    }
    top->view.interval = intervals[top->interval];
    return true;
}

static void paint(struct top *top, struct screen *screen)
{
    if (top->help)
        draw_help(&top->sheet);
    else
        view_draw(&top->view, &top->sheet);
    screen_paint(screen, &top->sheet);
    top->changed = false;
}

static int run_screen(struct top *top)
{
    int64_t asked_ms = 0, painted_ms = 0;
    struct screen screen;
    bool going = true;

    if (!screen_open(&screen)) {
        const char *term = getenv("TERM");

        fprintf(stderr, "%s: the terminal (TERM=%s) can't be used; -b prints lines\n", top->name,
                term ? term : "");
        return EXIT_FAILURE;
    }
    while (going) {
        int64_t now = clock_monotonic_ms(), wait;
        int key;

        if (!top->view.paused && (asked_ms == 0 || now - asked_ms >= interval_ms(top))) {
            start_round(top);
            asked_ms = now;
        }
        /* How long a server has been away goes on as well. */
        if (top->changed || now - painted_ms >= TURN_MS) {
            paint(top, &screen);
            painted_ms = now;
        }
        wait = asked_ms + interval_ms(top) - now;
        fetch_wait(top->fetch, screen_fd(), wait > 0 && wait < TURN_MS ? (int)wait : TURN_MS);
        while (going && (key = screen_key()) != 0) {
            going = on_key(top, &screen, key);
            top->changed = true;
        }
    }
    screen_close();
    return EXIT_SUCCESS;
}

/* ---- the command ---- */

static bool parse_count(const char *text, long *count)
{
    char *end;

    *count = strtol(text, &end, 10);
    return end != text && *end == '\0' && *count >= 1 && *count <= COUNT_MAX;
}

static bool parse_interval(const char *text, size_t *interval)
{
    char *end;
    double seconds = strtod(text, &end);

    for (*interval = 0; *interval < INTERVALS; ++*interval) {
        if (end != text && *end == '\0' && intervals[*interval] == seconds)
            return true;
    }
    return false;
}

/* -1: go on; else the exit code. */
static int read_options(struct top *top, int argc, char **argv)
{
    static const struct option words[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    long count = 1;
    bool batch = !isatty(STDOUT_FILENO);
    int option;

    while ((option = getopt_long(argc, argv, "bn:d:h", words, NULL)) != -1) {
        switch (option) {
        case 'b':
            batch = true;
            break;
        case 'n':
            if (parse_count(optarg, &count))
                break;
            fprintf(stderr, "%s: -n %s: expected a number from 1 to %d\n", top->name, optarg, COUNT_MAX);
            return EXIT_USAGE;
        case 'd':
            if (parse_interval(optarg, &top->interval))
                break;
            fprintf(stderr, "%s: -d %s: expected 0.2, 0.5, 1, 2, 5, 10, 30 or 60\n", top->name, optarg);
            return EXIT_USAGE;
        case 'h':
            print_usage(stdout);
            return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        default:
            print_usage(stderr);
            return EXIT_USAGE;
        }
    }
    top->sheets = batch ? count : 0;
    top->view.interval = intervals[top->interval];
    return -1;
}

/* `asked` has a place for each. */
static int add_servers(struct top *top, struct asked *asked, char **names)
{
    for (size_t i = 0; i < top->view.count; i++) {
        char *url, *label;

        if (!target_parse(names[i], &url, &label)) {
            fprintf(stderr, "%s: %s: expected HOST, HOST:PORT, http://... or https://...\n", top->name,
                    names[i]);
            return EXIT_USAGE;
        }
        top->view.servers[i].label = label;
        asked[i] = (struct asked){top, i};
        top->targets[i] = fetch_add(top->fetch, url, on_round, &asked[i]);
        free(url);
        if (!top->targets[i]) {
            fprintf(stderr, "%s: no memory\n", top->name);
            return EXIT_FAILURE;
        }
    }
    return -1;
}

static int run(struct top *top, char **names)
{
    struct asked *asked = calloc(top->view.count, sizeof(*asked));
    int result = EXIT_FAILURE;

    top->fetch = fetch_new();
    top->targets = calloc(top->view.count, sizeof(struct fetch_target *));
    top->view.servers = calloc(top->view.count, sizeof(*top->view.servers));
    if (!asked || !top->fetch || !top->targets || !top->view.servers)
        fprintf(stderr, "%s: no memory, or libcurl can't be used\n", top->name);
    else
        result = add_servers(top, asked, names);
    if (result < 0)
        result = top->sheets > 0 ? run_batch(top) : run_screen(top);
    if (top->fetch)
        fetch_free(top->fetch);
    for (size_t i = 0; top->view.servers && i < top->view.count; i++) {
        forget(&top->view.servers[i]);
        free((char *)top->view.servers[i].label);
    }
    sheet_deinit(&top->sheet);
    free(top->view.servers);
    free(top->targets);
    free(asked);
    return result;
}

int top_main(int argc, char **argv)
{
    static char default_target[] = DEFAULT_TARGET;
    char *alone[] = {default_target};
    struct top top = {.name = argv[0], .interval = INTERVAL_DEFAULT};
    int result = read_options(&top, argc, argv);

    if (result >= 0)
        return result;
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* libcurl is told to leave signals alone */
    top.view.count = optind < argc ? (size_t)(argc - optind) : 1;
    return run(&top, optind < argc ? argv + optind : alone);
}
