/* main.c - the command line. */
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chatd/config.h"
#include "chatd/doctor.h"
#include "chatd/master.h"
#include "chatd/rules.h"
#include "chatd/top.h"
#include "chatd/worker.h"

enum { EXIT_USAGE = 2 };

/* Each reads its own options; `title` is what it is called in its messages. */
static const struct {
    const char *name;
    char *title;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"top", (char[]){"chatd top"}, top_main, "shows what running servers do, all the time"},
    {"doctor", (char[]){"chatd doctor"}, doctor_main,
     "how many connections this machine holds with these settings, and what stops it there"},
    {"rules", (char[]){"chatd rules"}, rules_main, "prints the alerts as rules for Prometheus"},
};

enum { COMMANDS = sizeof(commands) / sizeof(*commands) };

static void print_usage(FILE *out)
{
    fputs(
        "usage: chatd [-c FILE] [-t] [-V] [-h]\n"
        "       chatd COMMAND [OPTION ...]\n"
        "\n"
        "  -c FILE  read settings from FILE; the environment wins over it\n"
        "  -t       check the settings, print each with where it came from, warn of a Redis or MongoDB that\n"
        "           can't be reached now, and end\n"
        "  -V       print the version (also --version)\n"
        "  -h       print this (also --help)\n"
        "\n"
        "Without -c chatd runs on its built-in defaults, on port 5000. It stays in the foreground; SIGTERM "
        "stops\n"
        "it, SIGHUP makes it read its settings again, SIGUSR1 makes it open its log file again.\n"
        "\n"
        "Commands, each with -h for its own options:\n",
        out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-7s  %s\n", commands[i].name, commands[i].help);
}

/* What was printed counts only when it got out. */
static int finish(void)
{
    if (fflush(stdout) == 0)
        return EXIT_SUCCESS;
    perror("chatd: standard output");
    return EXIT_FAILURE;
}

/* Started with one of them closed (2>&-), the next file opened would get its number, and the log would be
 * written into it. */
static bool have_standard_files(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    return fd >= 0 && close(fd) == 0;
}

int main(int argc, char **argv)
{
    static struct config config;
    static char error[CONFIG_ERROR_MAX], reason[WORKER_ERROR_MAX];
    static const struct option words[] = {{"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {NULL, 0, NULL, 0}};
    const char *file = NULL;
    bool test = false;
    int option;

    if (!have_standard_files())
        return EXIT_FAILURE;
    for (size_t i = 0; i < COMMANDS && argc > 1; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        argv[1] = commands[i].title;
        return commands[i].run(argc - 1, argv + 1);
    }
    while ((option = getopt_long(argc, argv, "c:tVh", words, NULL)) != -1) {
        switch (option) {
        case 'c':
            file = optarg;
            break;
        case 't':
            test = true;
            break;
        case 'V':
            puts("chatd " CHATD_VERSION);
            return finish();
        case 'h':
            print_usage(stdout);
            return finish();
        default:
            print_usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "chatd: unexpected argument %s\n", argv[optind]);
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (config_load(&config, file, error) != 0) {
        fprintf(stderr, "chatd: wrong settings\n%s\n", error);
        return EXIT_FAILURE;
    }
    if (worker_check(&config, reason) != 0) {
        fprintf(stderr, "chatd: wrong settings\n%s\n", reason);
        return EXIT_FAILURE;
    }
    if (test) {
        config_print(&config, stdout);
        worker_probe(&config, stderr);
        return finish();
    }
    return master_run(&config);
}
