/* main.c - the command line. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "chatd/config.h"
#include "chatd/master.h"
#include "chatd/worker.h"

enum { EXIT_USAGE = 2 };

static void print_usage(FILE *out)
{
    fputs(
        "usage: chatd [-c FILE] [-t] [-V] [-h]\n"
        "\n"
        "  -c FILE  read settings from FILE; the environment wins over it\n"
        "  -t       check the settings, print each with where it came from, warn of a Redis or MongoDB that\n"
        "           can't be reached now, and end\n"
        "  -V       print the version\n"
        "  -h       print this\n"
        "\n"
        "Without -c chatd runs on its built-in defaults, on port 5000. It stays in the foreground; SIGTERM "
        "stops\n"
        "it, SIGHUP makes it read its settings again, SIGUSR1 makes it open its log file again.\n",
        out);
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
    const char *file = NULL;
    bool test = false;
    int option;

    if (!have_standard_files())
        return EXIT_FAILURE;
    while ((option = getopt(argc, argv, "c:tVh")) != -1) {
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
