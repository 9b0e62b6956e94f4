/* doctor.c - the subcommand: options, and the findings on paper. */
#include "chatd/doctor.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "checks.h"
#include "chatd/config.h"

/* Where a chatd that systemd started keeps its data: deploy/systemd/chatd.service. */
#define PACKAGED_DIR "/var/lib/chatd"

enum {
    EXIT_USAGE = 2,
    WIDTH = 100,
    GUIDE_CONNECTIONS =
        200000, /* the guide's for one server: what the advice aims at when nobody asks for more */
    NUMBER_MAX = 100000000,
    NOTE_MAX = 400
};

struct doctor {
    const char *name; /* of the command, for messages */
    const char *file, *root;
    int64_t demand, sources; /* sources -1: not said */
    bool json;
    char note[NOTE_MAX]; /* which chatd's limits these are, where that may surprise; empty: it doesn't */
};

static const char *const verdicts[] = {
    [CHECKS_OK] = "ok",
    [CHECKS_SHORT] = "too few",
    [CHECKS_ADVICE] = "advice",
    [CHECKS_UNKNOWN] = "unknown",
};

static void print_usage(FILE *out)
{
    fputs(
        "usage: chatd doctor [-c FILE] [-n CONNECTIONS] [-a ADDRESSES] [-r DIR] [-j] [-h]\n"
        "\n"
        "Says how many connections this machine holds with these settings, what stops it there, and what to\n"
        "type. Limits are those of the chatd that runs on the settings' data_dir (when none is set, also of "
        "one\n"
        "that runs on " PACKAGED_DIR "), else those of this shell.\n"
        "\n"
        "  -c FILE         read settings from FILE; the environment wins over it\n"
        "  -n CONNECTIONS  the exit code is 1 when fewer are held\n"
        "  -a ADDRESSES    a proxy stands before chatd and connects from so many addresses (without -a: 1 "
        "when\n"
        "                  `host` is a loopback address, else there is none)\n"
        "  -r DIR          look at the copy of another machine's /proc and /sys in DIR, with what there is "
        "of:\n"
        "                  proc/self/{limits,status,cgroup} (or, for self, those of the chatd that runs)\n"
        "                  proc/{meminfo,stat}, proc/*/comm\n"
        "                  proc/sys/fs/{nr_open,file-max,file-nr}, proc/sys/kernel/{pid_max,threads-max}\n"
        "                  proc/sys/net/ipv4/{tcp_mem,tcp_rmem,tcp_wmem,tcp_max_syn_backlog,\n"
        "                  ip_local_port_range,ip_local_reserved_ports}\n"
        "                  proc/sys/net/core/{somaxconn,netdev_max_backlog}\n"
        "                  proc/sys/net/netfilter/{nf_conntrack_max,nf_conntrack_count}\n"
        "                  proc/sys/vm/{max_map_count,overcommit_memory}\n"
        "                  sys/kernel/mm/transparent_hugepage/enabled\n"
        "                  sys/fs/cgroup, of the groups that proc/self/cgroup names and those above them\n"
        "  -j              print JSON\n"
        "  -h              print this (also --help)\n",
        out);
}

/* ---- paper ---- */

/* Indented, with breaks between words. */
static void print_wrapped(const char *label, const char *text)
{
    int indent = 4 + (int)strlen(label), column = indent;

    printf("    %s", label);
    while (*text != '\0') {
        int length = (int)strcspn(text, " ");

        if (column > indent && column + 1 + length > WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_finding(const struct finding *finding, bool first)
{
    char holds[24] = "-";

    if (finding->holds != FACTS_NONE && finding->holds != FACTS_UNKNOWN)
        snprintf(holds, sizeof(holds), "%" PRId64, finding->holds);
    printf("%-23s  %-46s  %12s  %s\n", finding->name, finding->value, holds,
           first && finding->verdict == CHECKS_OK ? "first" : verdicts[finding->verdict]);
    if (finding->reason[0])
        print_wrapped("", finding->reason);
    if (finding->verdict != CHECKS_SHORT && finding->verdict != CHECKS_ADVICE && !first)
        return;
    if (finding->now[0])
        print_wrapped(finding->advice == CHECKS_SET ? "set:  " : "now:  ", finding->now);
    if (finding->keep[0])
        print_wrapped("keep: ", finding->keep);
}

static void print_paper(const struct doctor *doctor, const struct finding *findings, int count, int first)
{
    static const char *const verbs[] = {
        [CHECKS_TYPE] = "type ", [CHECKS_SET] = "set ", [CHECKS_DO] = ""};

    printf("%-23s  %-46s  %12s  %s\n", "CHECK", "FOUND", "CONNECTIONS", "VERDICT");
    for (int i = 0; i < count; i++)
        print_finding(&findings[i], i == first);
    if (doctor->note[0]) {
        putchar('\n');
        print_wrapped("note: ", doctor->note);
    }
    if (findings[first].holds == FACTS_UNKNOWN || findings[first].holds == FACTS_NONE) {
        printf("\nnothing that limits connections can be read here\n");
        return;
    }
    printf("\nthis configuration holds about %" PRId64 " connections; the first limit is %s: %s%s\n",
           findings[first].holds, findings[first].name, verbs[findings[first].advice], findings[first].now);
}

static void print_json(const struct doctor *doctor, const struct finding *findings, int count, int first)
{
    json_t *list = json_array(), *root;

    for (int i = 0; i < count; i++) {
        const struct finding *f = &findings[i];
        bool number = f->holds != FACTS_NONE && f->holds != FACTS_UNKNOWN;

        json_array_append_new(
            list, json_pack("{s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:s}", "check", f->name, "found", f->value,
                            "connections", number ? json_integer(f->holds) : json_null(), "verdict",
                            verdicts[f->verdict], "reason", f->reason, "now",
                            f->advice == CHECKS_SET ? "" : f->now, "set",
                            f->advice == CHECKS_SET ? f->now : "", "keep", f->keep));
    }
    root = json_pack("{s:I, s:s, s:s, s:o}", "connections", (json_int_t)findings[first].holds, "first_limit",
                     findings[first].name, "note", doctor->note, "checks", list);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

/* ---- the command ---- */

static bool loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

/* Without a demand the advice aims at the guide's number, or at twice of what is held. */
static int examine(struct checks_input *input, struct finding findings[CHECKS_MAX])
{
    int count;

    input->wanted = input->demand > 0 ? input->demand : GUIDE_CONNECTIONS;
    count = checks_run(input, findings);
    if (input->demand == 0) {
        int64_t holds = findings[checks_first(findings, count)].holds;

        if (holds >= GUIDE_CONNECTIONS && holds <= NUMBER_MAX) {
            input->wanted = 2 * holds;
            count = checks_run(input, findings);
        }
    }
    return count;
}

static int report(const struct doctor *doctor, const struct config *config)
{
    struct finding findings[CHECKS_MAX];
    struct facts facts;
    struct checks_input input = {.config = config, .facts = &facts, .workers = config->workers};
    int count, first;

    facts_read(&facts, doctor->root, config);
    if (config->workers_auto && doctor->root[0] != '\0' && facts.cores > 0)
        input.workers = facts.cores; /* of that machine, not of this one */
    input.demand = doctor->demand;
    input.proxy_here = loopback(config->host);
    input.sources = doctor->sources >= 0 ? doctor->sources : input.proxy_here;
    count = examine(&input, findings);
    first = checks_first(findings, count);
    if (doctor->json)
        print_json(doctor, findings, count, first);
    else
        print_paper(doctor, findings, count, first);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "%s: standard output: %s\n", doctor->name, strerror(errno));
        return EXIT_FAILURE;
    }
    return findings[first].holds >= input.demand && findings[first].holds > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static bool parse_number(const struct doctor *doctor, char option, const char *text, int64_t low,
                         int64_t *number)
{
    char *end;

    errno = 0;
    *number = strtoll(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && *number >= low && *number <= NUMBER_MAX)
        return true;
    fprintf(stderr, "%s: -%c %s: expected a number from %" PRId64 " to %d\n", doctor->name, option, text, low,
            NUMBER_MAX);
    return false;
}

/* Looks at the chatd of the package when these settings name no data directory and nobody runs on the one
 * that they come to. Says it when there is one that can't be seen. */
static void choose_chatd(struct doctor *doctor, struct config *config)
{
    const char *dir = config->data_dir;
    int64_t pid = facts_find_master(dir);

    if (pid == 0 && config->data_dir_default && !getenv("STATE_DIRECTORY")) {
        pid = facts_find_master(PACKAGED_DIR);
        dir = PACKAGED_DIR;
    }
    if (pid == -EACCES) {
        snprintf(doctor->note, sizeof(doctor->note),
                 "can't see whether a chatd runs on %.200s (permission): run as root", dir);
    } else if (pid > 0 && dir != config->data_dir) {
        strcpy(config->data_dir, PACKAGED_DIR);
        snprintf(doctor->note, sizeof(doctor->note),
                 "the limits are those of the chatd that runs on " PACKAGED_DIR
                 "; its settings are those in its file (-c) and in its environment");
    }
}

/* -1: go on; else the exit code. */
static int read_options(struct doctor *doctor, int argc, char **argv)
{
    static const struct option words[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "c:n:a:r:jh", words, NULL)) != -1) {
        switch (option) {
        case 'c':
            doctor->file = optarg;
            break;
        case 'n':
            if (!parse_number(doctor, 'n', optarg, 1, &doctor->demand))
                return EXIT_USAGE;
            break;
        case 'a':
            if (!parse_number(doctor, 'a', optarg, 0, &doctor->sources))
                return EXIT_USAGE;
            break;
        case 'r':
            doctor->root = optarg;
            break;
        case 'j':
            doctor->json = true;
            break;
        case 'h':
            print_usage(stdout);
            return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        default:
            print_usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "%s: unexpected argument %s\n", doctor->name, argv[optind]);
    print_usage(stderr);
    return EXIT_USAGE;
}

int doctor_main(int argc, char **argv)
{
    static struct config config;
    static char error[CONFIG_ERROR_MAX];
    struct doctor doctor = {.name = argv[0], .root = "", .sources = -1};
    int result = read_options(&doctor, argc, argv);

    if (result >= 0)
        return result;
    if (config_load(&config, doctor.file, error) != 0) {
        fprintf(stderr, "%s: wrong settings\n%s\n", doctor.name, error);
        return EXIT_FAILURE;
    }
    if (doctor.root[0] == '\0')
        choose_chatd(&doctor, &config);
    return report(&doctor, &config);
}
