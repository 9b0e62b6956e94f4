/*
 * Runs a fuzz target over its corpus without libFuzzer: replay_NAME FILE|FOLDER...
 *
 * Every input is copied to a heap block of exactly its size, so the address sanitizer sees one byte read too
 * many. The last line says how many inputs were run; an input that kills the program is named on stderr.
 */
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

/* The death callback takes no argument, so what it reports has to stand still somewhere. */
static const char *current_path = "(none)";

static void on_death(void)
{
    fprintf(stderr, "replay: died on input %s\n", current_path);
}

static int run_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size > 0 ? size : 1);
    int err = 0;

    if (!file || !data || fread(data, 1, size, file) != size) {
        fprintf(stderr, "replay: can't read %s: %s\n", path, strerror(errno));
        err = -EIO;
    } else {
        current_path = path;
        /* malloc(0) may hand out a block with a byte in it: the empty input gets no block at all. */
        LLVMFuzzerTestOneInput(size > 0 ? data : NULL, size);
    }
    free(data);
    if (file)
        fclose(file);
    return err;
}

/* Returns the number of inputs run below `path`, or a negative code. */
static int run_path(const char *path)
{
    struct dirent **entries;
    struct stat st;
    int count, err, total = 0;

    if (stat(path, &st) < 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        return -ENOENT;
    }
    if (!S_ISDIR(st.st_mode)) {
        err = run_file(path, (size_t)st.st_size);
        return err < 0 ? err : 1;
    }

    /* Sorted, so that a crash that needs two inputs in order comes back. */
    count = scandir(path, &entries, NULL, alphasort);
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        char child[4096];

        snprintf(child, sizeof(child), "%s/%s", path, entries[i]->d_name);
        if (total >= 0 && entries[i]->d_name[0] != '.') {
            err = run_path(child);
            total = err < 0 ? err : total + err;
        }
        free(entries[i]);
    }
    free(entries);
    return total;
}

int main(int argc, char **argv)
{
    int total = 0;

    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(on_death);
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);

    for (int i = 1; i < argc; i++) {
        int count = run_path(argv[i]);

        if (count < 0)
            return EXIT_FAILURE;
        total += count;
    }
    printf("%d inputs\n", total);
    return EXIT_SUCCESS;
}
