/* chatload: opens many chat connections to a server that speaks chatd's protocol, publishes at a fixed rate,
 * checks every delivery, and says what it cost the server. README.md says what each figure means.
 *
 * This file: options, the phases of a run, the report. Prints one JSON object on stdout, progress on stderr.
 * Exit code: 0 all is well; 1 something was lost, doubled, out of order, unanswered or cut off; 2 no run.
 */
#include "chatload_group.h"
#include "chatload_proc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define SECOND UINT64_C(1000000000)

static const uint64_t STALL = 30 * SECOND; /* no connection gets further for that long: give up */
static const uint64_t QUIET = SECOND / 2;  /* nothing is read for that long: presence is through */
static const uint64_t QUIET_LIMIT = 60 * SECOND;
static const uint64_t DRAIN_LIMIT = 10 * SECOND; /* without anything read */

static const char USAGE[] =
    "usage: chatload --connections N [options] HOST PORT      (HOST is an IPv4 address)\n"
    "  --connections N        clients, each in one room\n"
    "  --rooms R              rooms they are spread over (1)\n"
    "  --rate M               messages per second, all publishers together (10)\n"
    "  --publishers P         clients that publish in turn (1)\n"
    "  --text-bytes B         length of a text, 24 to 4096 (128)\n"
    "  --seconds S            length of the measured phase (10)\n"
    "  --server-pid PID       sample this process and its descendants\n"
    "  --source-addresses K   connect from 127.0.0.1 to 127.0.0.K, up to 250 (the kernel's choice)\n"
    "  --idle                 publish nothing: the measured phase shows what idle connections cost\n";

struct options {
    struct group_options group;
    unsigned seconds;
    pid_t server_pid; /* 0: nothing to sample */
    bool idle;
};

struct run {
    const struct options *options;
    struct group *group;
    const char *phase;
    uint64_t progress_at; /* when to print the next line */
    double connect_seconds, measured_seconds;
    struct proc_sample before, idle, start, end;
};

static unsigned number_or_die(const char *text, const char *what, unsigned low, unsigned high)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || *text < '0' || *text > '9' || value < low || value > high) {
        fprintf(stderr, "chatload: %s: %s: expected a number from %u to %u\n", what, text, low, high);
        exit(2);
    }
    return (unsigned)value;
}

static double rate_or_die(const char *text)
{
    char *end;
    double rate = strtod(text, &end);
    if (*end || end == text || !(rate > 0.001 && rate < 1e7)) {
        fprintf(stderr, "chatload: --rate: %s: expected a number from 0.001 to 10000000\n", text);
        exit(2);
    }
    return rate;
}

static void usage_exit(FILE *to, int code)
{
    fputs(USAGE, to);
    exit(code);
}

static void options_parse(struct options *options, int argc, char **argv)
{
    static const struct option table[] = {
        {"connections", required_argument, NULL, 'n'}, {"rooms", required_argument, NULL, 'r'},
        {"rate", required_argument, NULL, 'm'},        {"publishers", required_argument, NULL, 'p'},
        {"text-bytes", required_argument, NULL, 'b'},  {"seconds", required_argument, NULL, 's'},
        {"server-pid", required_argument, NULL, 'P'},  {"source-addresses", required_argument, NULL, 'k'},
        {"idle", no_argument, NULL, 'i'},              {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct group_options *group = &options->group;
    *options = (struct options){
        .group = {.rooms = 1, .publishers = 1, .text_bytes = 128, .rate = 10},
        .seconds = 10,
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (letter) {
        case 'n': group->connections = number_or_die(optarg, "--connections", 1, 1000000); break;
        case 'r': group->rooms = number_or_die(optarg, "--rooms", 1, 1000000); break;
        case 'm': group->rate = rate_or_die(optarg); break;
        case 'p': group->publishers = number_or_die(optarg, "--publishers", 1, 1000000); break;
        case 'b':
            group->text_bytes = number_or_die(optarg, "--text-bytes", GROUP_TEXT_MIN, GROUP_TEXT_MAX);
            break;
        case 's': options->seconds = number_or_die(optarg, "--seconds", 1, 86400); break;
        case 'P': options->server_pid = (pid_t)number_or_die(optarg, "--server-pid", 1, 1u << 22); break;
        case 'k':
            group->source_addresses = number_or_die(optarg, "--source-addresses", 0, GROUP_SOURCES_MAX);
            break;
        case 'i': options->idle = true; break;
        case 'h': usage_exit(stdout, 0); break;
        default: usage_exit(stderr, 2);
        }
    }
    if (argc - optind != 2 || group->connections == 0)
        usage_exit(stderr, 2);
    if (group->publishers > group->connections || group->rooms > group->connections) {
        fputs("chatload: more publishers or rooms than connections\n", stderr);
        exit(2);
    }
    group->host = argv[optind];
    group->server.sin_family = AF_INET;
    group->server.sin_port = htons((uint16_t)number_or_die(argv[optind + 1], "PORT", 1, 65535));
    if (inet_pton(AF_INET, group->host, &group->server.sin_addr) != 1) {
        fprintf(stderr, "chatload: %s is no IPv4 address\n", group->host);
        exit(2);
    }
}

static double seconds_since(uint64_t start)
{
    return (double)(group_now() - start) / 1e9;
}

static void sample(const struct run *run, struct proc_sample *into, int with_memory)
{
    if (run->options->server_pid > 0 && proc_sample(into, run->options->server_pid, with_memory) < 0) {
        fprintf(stderr, "chatload: there is no process %d\n", (int)run->options->server_pid);
        exit(2);
    }
}

/* One turn of the group, and a line of progress each second. */
static void turn(struct run *run)
{
    group_poll(run->group, 50);
    uint64_t now = group_now();
    if (now < run->progress_at)
        return;
    const struct group_tally *tally = group_tally(run->group);
    fprintf(stderr, "chatload: %-8s joined %u failed %u closed %u sent %llu acked %llu delivered %llu\n",
            run->phase, tally->joined, tally->failed, tally->closed, (unsigned long long)tally->sent,
            (unsigned long long)tally->acked, (unsigned long long)tally->deliveries);
    run->progress_at = now + SECOND;
}

/* True when every client is in its room. */
static bool run_connect(struct run *run)
{
    const struct group_tally *tally = group_tally(run->group);
    uint64_t start = group_now(), moved_at = start;
    unsigned done = 0;
    run->phase = "connect";
    while (done < run->options->group.connections && group_now() - moved_at < STALL) {
        turn(run);
        if (tally->joined + tally->failed + tally->closed != done) {
            done = tally->joined + tally->failed + tally->closed;
            moved_at = group_now();
        }
    }
    run->connect_seconds = seconds_since(start);
    return tally->joined == run->options->group.connections;
}

/* Until nothing was read for `quiet`, or `limit` is over. */
static void run_until_quiet(struct run *run, uint64_t quiet, uint64_t limit)
{
    const struct group_tally *tally = group_tally(run->group);
    uint64_t start = group_now(), moved_at = start, bytes = tally->bytes;
    while (group_now() - moved_at < quiet && group_now() - start < limit) {
        turn(run);
        if (tally->bytes != bytes) {
            bytes = tally->bytes;
            moved_at = group_now();
        }
    }
}

static void run_idle(struct run *run)
{
    uint64_t until = group_now() + run->options->seconds * SECOND;
    while (group_now() < until)
        turn(run);
}

static void run_messages(struct run *run)
{
    const struct group_tally *tally = group_tally(run->group);
    uint64_t bytes = 0, moved_at = 0, until = group_now() + run->options->seconds * SECOND;
    group_publish(run->group, (uint64_t)(run->options->group.rate * run->options->seconds));
    while (group_now() < until || !group_is_drained(run->group)) {
        turn(run);
        if (tally->bytes != bytes || group_now() < until) {
            bytes = tally->bytes;
            moved_at = group_now();
        } else if (group_now() - moved_at > DRAIN_LIMIT) {
            break;
        }
    }
}

/* The phases in order; false when not all clients got to their rooms. */
static bool run_all(struct run *run)
{
    sample(run, &run->before, 1);
    if (!run_connect(run))
        return false;
    run->phase = "settle";
    run_until_quiet(run, QUIET, QUIET_LIMIT);
    sample(run, &run->idle, 1);

    run->phase = run->options->idle ? "idle" : "publish";
    sample(run, &run->start, 0);
    uint64_t start = group_now();
    (run->options->idle ? run_idle : run_messages)(run);
    run->measured_seconds = seconds_since(start);
    sample(run, &run->end, 0);
    if (!run->options->idle) {
        /* A double that is still on its way comes after all that was waited for. */
        run_until_quiet(run, QUIET, DRAIN_LIMIT);
        group_count_missing(run->group);
    }
    return true;
}

static void print_latency(const char *name, const struct hist *hist)
{
    printf("  \"%s\": {\"count\": %llu, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f},\n", name,
           (unsigned long long)hist->count, (double)hist_quantile(hist, 0.50) / 1e3,
           (double)hist_quantile(hist, 0.99) / 1e3, (double)hist->max / 1e3);
}

static double thread_cpu_in(const struct proc_sample *sample, pid_t tid)
{
    for (unsigned i = 0; i < sample->threads; i++)
        if (sample->thread[i].tid == tid)
            return sample->thread[i].cpu;
    return 0;
}

/* Of the measured phase, the threads that did anything. A name is the kernel's, with only safe characters. */
static void print_threads(const struct run *run)
{
    const char *separator = "";
    printf("    \"threads\": [");
    for (unsigned i = 0; i < run->end.threads; i++) {
        const struct proc_thread *thread = &run->end.thread[i];
        double cpu = thread->cpu - thread_cpu_in(&run->start, thread->tid);
        char name[sizeof(thread->name)];
        memcpy(name, thread->name, sizeof(name));
        for (char *c = name; *c; c++)
            if (*c < ' ' || *c == '"' || *c == '\\' || *c > '~')
                *c = '?';
        if (cpu > 0) {
            printf("%s{\"pid\": %d, \"tid\": %d, \"name\": \"%s\", \"cpu_seconds\": %.2f}", separator,
                   (int)thread->pid, (int)thread->tid, name, cpu);
            separator = ", ";
        }
    }
    printf("]\n");
}

static void print_server(const struct run *run)
{
    const struct group_tally *tally = group_tally(run->group);
    double cpu = run->end.cpu - run->start.cpu;
    printf("  \"server\": {\n    \"pid\": %d, \"processes\": %u, \"processes_at_start\": %u,\n",
           (int)run->options->server_pid, run->end.processes, run->start.processes);
    printf("    \"pss_before\": %llu, \"pss_idle\": %llu, \"bytes_per_connection\": %.1f,\n",
           (unsigned long long)run->before.pss, (unsigned long long)run->idle.pss,
           ((double)run->idle.pss - (double)run->before.pss) / run->options->group.connections);
    printf("    \"cpu_seconds\": %.2f, \"cpu_us_per_delivery\": %.3f,\n", cpu,
           tally->deliveries > 0 ? cpu * 1e6 / (double)tally->deliveries : 0);
    print_threads(run);
    printf("  },\n");
}

static void print_report(const struct run *run, bool ok)
{
    const struct options *options = run->options;
    const struct group_tally *tally = group_tally(run->group);
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    printf("{\n  \"ok\": %s,\n", ok ? "true" : "false");
    printf("  \"connections\": %u, \"rooms\": %u, \"publishers\": %u, \"rate\": %g, \"text_bytes\": %u,"
           " \"seconds\": %u, \"idle\": %s,\n", options->group.connections, options->group.rooms,
           options->group.publishers, options->group.rate, options->group.text_bytes, options->seconds,
           options->idle ? "true" : "false");
    printf("  \"connect_seconds\": %.3f, \"connects_per_second\": %.0f, \"measured_seconds\": %.3f,\n",
           run->connect_seconds, tally->joined / run->connect_seconds, run->measured_seconds);
    printf("  \"joined\": %u, \"failed\": %u, \"closed\": %u, \"other_events\": %llu,\n", tally->joined,
           tally->failed, tally->closed, (unsigned long long)tally->events);
    printf("  \"sent\": %llu, \"unsent\": %llu, \"acked\": %llu, \"refused\": %llu, \"unanswered\": %llu,\n",
           (unsigned long long)tally->sent, (unsigned long long)tally->unsent,
           (unsigned long long)tally->acked, (unsigned long long)tally->refused,
           (unsigned long long)(tally->sent - tally->acked - tally->refused));
    printf("  \"deliveries\": %llu, \"expected\": %llu, \"lost\": %llu, \"doubled\": %llu,"
           " \"out_of_order\": %llu,\n", (unsigned long long)tally->deliveries,
           (unsigned long long)tally->expected, (unsigned long long)tally->lost,
           (unsigned long long)tally->doubled, (unsigned long long)tally->out_of_order);
    print_latency("latency_us", &tally->latency);
    print_latency("ack_latency_us", &tally->ack_latency);
    if (options->server_pid > 0)
        print_server(run);
    printf("  \"generator\": {\"cpu_seconds\": %.2f, \"late_max_us\": %.1f}\n}\n",
           (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
               (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6,
           (double)tally->late_max / 1e3);
}

int main(int argc, char **argv)
{
    struct options options;
    options_parse(&options, argc, argv);
    struct run *run = calloc(1, sizeof(*run));
    if (!run)
        return 2;
    run->options = &options;
    run->group = group_new(&options.group);

    bool complete = run_all(run);
    const struct group_tally *tally = group_tally(run->group);
    bool ok = complete && !tally->lost && !tally->doubled && !tally->out_of_order && !tally->closed &&
              !tally->unsent && tally->acked + tally->refused == tally->sent;
    print_report(run, ok);
    group_free(run->group);
    free(run);
    return ok ? 0 : 1;
}
