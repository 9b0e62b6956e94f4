/* The log: both forms, escaping, cutting, suppression, reopening. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "chatd/clock.h"
#include "chatd/log.h"

static char path[64];

static void open_log(enum log_format format, enum log_level threshold)
{
    unlink(path);
    assert_int_equal(log_open(path, format, threshold), 0);
}

/* All that was written since open_log; the caller frees it. */
static char *written(const char *file)
{
    FILE *stream = fopen(file, "r");
    char *text = calloc(1, 1 << 20);

    assert_non_null(stream);
    assert_true(fread(text, 1, (1 << 20) - 1, stream) < (1 << 20) - 1);
    fclose(stream);
    return text;
}

static void assert_readable(const char *expected)
{
    char *text = written(path);

    /* HH:MM:SS.mmm and a space come first. */
    assert_true(strlen(text) > 13);
    assert_string_equal(text + 13, expected);
    free(text);
    assert_int_equal(truncate(path, 0), 0);
}

static json_t *last_object(void)
{
    char *text = written(path), *line = text, *next;
    json_t *root;

    while ((next = strchr(line, '\n')) != NULL && next[1] != '\0')
        line = next + 1;
    assert_true(strlen(line) <= LOG_LINE_MAX);
    root = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

static void assert_member(json_t *root, const char *name, const char *expected)
{
    char *text = json_dumps(json_object_get(root, name), JSON_ENCODE_ANY);

    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
}

static void readable_lines_quote_only_what_needs_it(void **state)
{
    (void)state;
    open_log(LOG_READABLE, LOG_INFO);
    log_info("started", "port=%d host=%s name=%s", 5000, "::1", "two words");
    assert_readable("info started port=5000 host=::1 name=\"two words\"\n");
    log_warn("odd", "empty=%s quote=%s equals=%s back=%s", "", "a\"b", "a=b", "a\\b");
    assert_readable("warn odd empty=\"\" quote=\"a\\\"b\" equals=\"a=b\" back=\"a\\\\b\"\n");
    log_error("bare", " ");
    assert_readable("error bare\n");
    log_debug("hidden", "x=%d", 1);
    log_info("page", "address=http://%s:%d/ letters=\xc3\xa4\xc4\xa0", "localhost", 80);
    assert_readable("info page address=http://localhost:80/ letters=\xc3\xa4\xc4\xa0\n");
}

static void every_conversion_takes_its_own_argument(void **state)
{
    (void)state;
    open_log(LOG_READABLE, LOG_INFO);
    log_info("c", "a=%d b=%u c=%ld d=%lu e=%lld f=%llu g=%zu h=%zd i=%.2f j=%c k=%.*s l=%x m=%05d n=%s", -1,
             2u, -3L, 4UL, -5LL, 6ULL, (size_t)7, (ssize_t)-8, 9.5, 'z', 3, "abcdef", 255u, 42, "end");
    assert_readable("info c a=-1 b=2 c=-3 d=4 e=-5 f=6 g=7 h=-8 i=9.50 j=z k=abc l=ff m=00042 n=end\n");
    log_info("c", "big=%llu small=%lld w=%*d p=%d%%", 18446744073709551615ULL, INT64_MIN + 0LL, 4, 7, 50);
    assert_readable("info c big=18446744073709551615 small=-9223372036854775808 w=\"   7\" p=50%\n");
}

static void what_a_peer_sent_cannot_forge_a_line(void **state)
{
    (void)state;
    open_log(LOG_READABLE, LOG_INFO);
    log_info("e", "user=%s", "a\n12:00:00.000 error forged\r\t\x1b[31m\x7f");
    assert_readable("info e user=\"a\\n12:00:00.000 error forged\\r\\t\\u001b[31m\\u007f\"\n");
    log_info("e", "c1=%s rtl=%s line=%s", "\xc2\x9b", "\xe2\x80\xae", "\xe2\x80\xa8");
    assert_readable("info e c1=\"\\u009b\" rtl=\"\\u202e\" line=\"\\u2028\"\n");
    log_info("e", "broken=%s cut=%.*s", "\xff\xc0\x80", 1, "\xc3\xa4");
    assert_readable("info e broken=\"\\xff\\xc0\\x80\" cut=\"\\xc3\"\n");
}

static void json_lines_parse_and_keep_numbers(void **state)
{
    json_t *root;

    (void)state;
    open_log(LOG_JSON, LOG_DEBUG);
    log_set_worker(3);
    log_debug("e", "n=%d text=%s f=%f nan=%f zeros=%03d digits=%s both=%d/%d", -5, "a\"b\\\n\x01\xff", 0.5,
              0.0 / 0.0, 7, "12", 1, 2);
    root = last_object();
    assert_member(root, "level", "\"debug\"");
    assert_member(root, "event", "\"e\"");
    assert_member(root, "worker", "3");
    assert_int_equal(json_integer_value(json_object_get(root, "pid")), getpid());
    assert_member(root, "n", "-5");
    assert_member(root, "f", "0.5");
    assert_member(root, "zeros", "\"007\"");
    assert_member(root, "digits", "\"12\"");
    assert_member(root, "both", "\"1/2\"");
    assert_member(root, "text", "\"a\\\"b\\\\\\n\\u0001\xef\xbf\xbd\"");
    assert_true(json_is_string(json_object_get(root, "nan")));
    json_decref(root);
    /* The pair takes the place of the line's own key: last_object refuses a key that stands twice. */
    log_info("e", "worker=%d pid=%d", 9, 77);
    root = last_object();
    assert_member(root, "worker", "9");
    assert_member(root, "pid", "77");
    json_decref(root);
    log_set_worker(-1);
}

static void long_lines_are_cut_but_stay_whole(void **state)
{
    static const char *const fill[] = {"x", "\n", "\xf0\x9f\x98\x80", "\"", "\xff"};
    char text[4096];

    (void)state;
    open_log(LOG_JSON, LOG_INFO);
    for (size_t kind = 0; kind < sizeof(fill) / sizeof(fill[0]); kind++) {
        size_t step = strlen(fill[kind]);

        for (size_t length = 300; length < 2300; length += 7) {
            char event[16];
            json_t *root;

            for (size_t i = 0; i < length; i += step)
                memcpy(text + i, fill[kind], step);
            snprintf(event, sizeof(event), "e%zu", length % 100); /* below the burst of one event */
            log_info(event, "before=%d text=%.*s after=%d", 1, (int)(length - length % step), text, 2);
            root = last_object();
            assert_member(root, "before", "1");
            if (json_object_get(root, "after") == NULL)
                assert_member(root, "cut", "true");
            json_decref(root);
            assert_int_equal(truncate(path, 0), 0);
        }
    }
}

/* Until a second begins, in which a test may fill a burst. */
static void await_second(void)
{
    int64_t second = clock_monotonic_ms() / 1000;

    while (clock_monotonic_ms() / 1000 == second)
        usleep(1000);
}

static int count_of(const char *text, const char *what)
{
    int count = 0;

    for (; (text = strstr(text, what)) != NULL; text += strlen(what))
        count++;
    return count;
}

static void a_burst_is_limited_and_says_so_afterwards(void **state)
{
    char *text;

    (void)state;
    await_second();
    open_log(LOG_READABLE, LOG_INFO);
    for (int i = 0; i < LOG_BURST + 25; i++)
        log_info("flood", "i=%d", i);
    log_info("other", "i=%d", 1);
    text = written(path);
    assert_int_equal(count_of(text, " flood "), LOG_BURST);
    assert_non_null(strstr(text, "other i=1"));
    free(text);
    assert_int_equal(truncate(path, 0), 0);
    await_second();
    log_info("flood", "i=%d", 1);
    assert_readable("info flood suppressed=25 i=1\n");
    log_info("flood", "i=%d", 2);
    assert_readable("info flood i=2\n");
}

/* The reason is a part of the cause: those who are closed for being slow don't hide one who is closed for
 * abuse. */
static void each_reason_has_a_burst_of_its_own(void **state)
{
    char *text;

    (void)state;
    log_tell_suppressed(true); /* what other tests left */
    await_second();
    open_log(LOG_READABLE, LOG_INFO);
    for (int i = 0; i < LOG_BURST + 5; i++)
        log_info("closed", "connection=%d reason=%s", i, "slow");
    log_warn("closed", "connection=%d reason=%s", 1, "abuse");
    text = written(path);
    assert_int_equal(count_of(text, "reason=slow"), LOG_BURST);
    assert_int_equal(count_of(text, "reason=abuse"), 1);
    free(text);
    assert_int_equal(truncate(path, 0), 0);
    await_second();
    log_warn("closed", "connection=%d reason=%s", 2, "abuse");
    assert_readable("warn closed connection=2 reason=abuse\n");
    log_info("closed", "connection=%d reason=%s", 3, "slow");
    assert_readable("info closed suppressed=5 connection=3 reason=slow\n");
}

static void the_tick_tells_what_nobody_else_will(void **state)
{
    char *text;

    (void)state;
    log_tell_suppressed(true); /* what other tests left */
    await_second();
    open_log(LOG_READABLE, LOG_INFO);
    for (int i = 0; i < LOG_BURST + 7; i++) {
        log_warn("closed", "reason=%s", "two words");
        log_info("flood", " ");
    }
    log_tell_suppressed(false); /* their second isn't over */
    text = written(path);
    assert_int_equal(count_of(text, "log_suppressed"), 0);
    free(text);
    assert_int_equal(truncate(path, 0), 0);
    await_second();
    log_tell_suppressed(false);
    text = written(path);
    assert_int_equal(count_of(text, "\n"), 2);
    assert_int_equal(count_of(text, " warn log_suppressed of=closed reason=\"two words\" suppressed=7\n"), 1);
    assert_int_equal(count_of(text, " info log_suppressed of=flood suppressed=7\n"), 1);
    free(text);
    assert_int_equal(truncate(path, 0), 0);
    log_tell_suppressed(false);
    log_info("flood", " ");
    assert_readable("info flood\n");
}

static void the_end_tells_all(void **state)
{
    json_t *root;

    (void)state;
    log_tell_suppressed(true); /* what other tests left */
    await_second();
    open_log(LOG_JSON, LOG_INFO);
    for (int i = 0; i < LOG_BURST + 1; i++)
        log_info("flood", "reason=%s", "x");
    log_tell_suppressed(true);
    root = last_object();
    assert_member(root, "event", "\"log_suppressed\"");
    assert_member(root, "of", "\"flood\"");
    assert_member(root, "reason", "\"x\"");
    assert_member(root, "suppressed", "1");
    json_decref(root);
}

/* More causes than have a place: they are still limited, together, and counted. */
static void causes_without_end_are_limited_together(void **state)
{
    enum { REASONS = 1000 };
    char *text;
    int lines = 0;

    (void)state;
    log_tell_suppressed(true); /* what other tests left */
    await_second();
    open_log(LOG_READABLE, LOG_INFO);
    for (int i = 0; i < REASONS; i++)
        log_info("many", "reason=r%d", i);
    text = written(path);
    lines = count_of(text, " many ");
    free(text);
    assert_true(lines > LOG_BURST && lines < REASONS / 2);
    assert_int_equal(truncate(path, 0), 0);
    await_second();
    log_tell_suppressed(false);
    text = written(path);
    assert_int_equal(count_of(text, "log_suppressed"), 1);
    assert_int_equal(atoi(strstr(text, "of=other suppressed=") + 20), REASONS - lines);
    free(text);
    /* Those that are over made room. */
    assert_int_equal(truncate(path, 0), 0);
    log_info("many", "reason=%s", "new");
    assert_readable("info many reason=new\n");
}

static void reopening_follows_a_rename(void **state)
{
    char moved[80];
    char *text;

    (void)state;
    open_log(LOG_READABLE, LOG_INFO);
    snprintf(moved, sizeof(moved), "%s.1", path);
    log_info("first", " ");
    assert_int_equal(rename(path, moved), 0);
    log_info("second", " ");
    assert_int_equal(log_reopen(), 0);
    log_info("third", " ");
    text = written(moved);
    assert_non_null(strstr(text, "second"));
    assert_null(strstr(text, "third"));
    free(text);
    assert_readable("info third\n");
    unlink(moved);
    /* A path that can't be opened leaves the sink as it was. */
    assert_int_equal(log_open("/nonexistent/x", LOG_JSON, LOG_ERROR), -ENOENT);
    errno = 77;
    log_info("fourth", "n=%d", errno);
    assert_int_equal(errno, 77);
    assert_readable("info fourth n=77\n");
}

static void *log_from_thread(void *arg)
{
    for (int i = 0; i < 40; i++)
        log_info((const char *)arg, "i=%d text=%s", i, "some text of some length");
    return NULL;
}

static void threads_do_not_mix_their_lines(void **state)
{
    static char names[8][16];
    pthread_t threads[8];
    char *text;
    int lines = 0;

    (void)state;
    open_log(LOG_READABLE, LOG_INFO);
    for (int i = 0; i < 8; i++) {
        snprintf(names[i], sizeof(names[i]), "t%d", i);
        assert_int_equal(pthread_create(&threads[i], NULL, log_from_thread, names[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(log_reopen(), 0);
        pthread_join(threads[i], NULL);
    }
    text = written(path);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++)
        assert_string_equal(strstr(line, " text="), " text=\"some text of some length\"");
    assert_int_equal(lines, 8 * 40);
    free(text);
}

static void a_full_pipe_loses_lines_and_holds_up_nobody(void **state)
{
    char fifo[sizeof(path) + 8], rubbish[4096] = "";
    int fd;

    (void)state;
    snprintf(fifo, sizeof(fifo), "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    fd = open(fifo, O_RDWR | O_NONBLOCK);
    while (write(fd, rubbish, sizeof(rubbish)) > 0)
        continue;
    assert_int_equal(log_open(fifo, LOG_READABLE, LOG_INFO), 0);
    log_info("nobody_reads", " "); /* returns */
    log_info("nobody_reads", " ");
    while (read(fd, rubbish, sizeof(rubbish)) > 0)
        continue;
    /* It knows how many it lost. */
    log_info("nobody_reads", " ");
    memset(rubbish, 0, sizeof(rubbish));
    assert_true(read(fd, rubbish, sizeof(rubbish) - 1) > 0);
    assert_string_equal(rubbish + 13, "info nobody_reads suppressed=2\n");
    assert_int_equal(log_open("", LOG_READABLE, LOG_INFO), 0);
    close(fd);
    unlink(fifo);
}

static void a_pipe_that_nobody_reads_is_not_waited_for(void **state)
{
    char fifo[sizeof(path) + 8], text[256] = "";
    int reader;

    (void)state;
    snprintf(fifo, sizeof(fifo), "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    open_log(LOG_READABLE, LOG_INFO);
    assert_int_equal(log_open(fifo, LOG_JSON, LOG_ERROR), -ENXIO);
    log_info("kept", " ");
    assert_readable("info kept\n");
    reader = open(fifo, O_RDONLY | O_NONBLOCK);
    assert_int_equal(log_open(fifo, LOG_READABLE, LOG_INFO), 0);
    close(reader);
    assert_int_equal(log_reopen(), -ENXIO);
    /* The old one was kept: whoever reads it now gets the lines. */
    reader = open(fifo, O_RDONLY | O_NONBLOCK);
    log_info("heard", " ");
    assert_true(read(reader, text, sizeof(text) - 1) > 0);
    assert_string_equal(text + 13, "info heard\n");
    assert_int_equal(log_open("", LOG_READABLE, LOG_INFO), 0);
    close(reader);
    unlink(fifo);
}

/* What the kernel does at a full disk it also does at the largest size a file may have. */
static void allow_file(rlim_t size)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_line_after_a_torn_one_begins_on_its_own(void **state)
{
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    struct stat file;
    char *text;

    (void)state;
    log_tell_suppressed(true); /* what other tests left */
    open_log(LOG_READABLE, LOG_INFO);
    log_info("whole", "n=%d", 1);
    assert_int_equal(stat(path, &file), 0);
    allow_file((rlim_t)file.st_size + 20);
    log_info("torn", "n=%d", 2); /* 20 bytes of it fit */
    log_info("torn", "n=%d", 3); /* nothing fits */
    allow_file((rlim_t)file.st_size + 21);
    log_info("torn", "n=%d", 4); /* the break fits */
    allow_file((rlim_t)file.st_size + 31);
    log_info("torn", "n=%d", 5); /* 10 bytes */
    allow_file(RLIM_INFINITY);
    log_info("torn", "n=%d", 6);
    log_info("torn", "n=%d", 7);
    signal(SIGXFSZ, before);
    text = written(path);
    assert_int_equal(count_of(text, "\n"), 5);
    assert_non_null(strstr(text, " info torn suppressed=4 n=6\n"));
    assert_non_null(strstr(text, " info torn n=7\n"));
    assert_int_equal(text[file.st_size + 20], '\n');
    assert_int_equal(text[file.st_size + 31], '\n');
    assert_null(strstr(text, "\n\n"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readable_lines_quote_only_what_needs_it),
        cmocka_unit_test(every_conversion_takes_its_own_argument),
        cmocka_unit_test(what_a_peer_sent_cannot_forge_a_line),
        cmocka_unit_test(json_lines_parse_and_keep_numbers),
        cmocka_unit_test(long_lines_are_cut_but_stay_whole),
        cmocka_unit_test(a_burst_is_limited_and_says_so_afterwards),
        cmocka_unit_test(each_reason_has_a_burst_of_its_own),
        cmocka_unit_test(the_tick_tells_what_nobody_else_will),
        cmocka_unit_test(the_end_tells_all),
        cmocka_unit_test(causes_without_end_are_limited_together),
        cmocka_unit_test(reopening_follows_a_rename),
        cmocka_unit_test(threads_do_not_mix_their_lines),
        cmocka_unit_test(a_full_pipe_loses_lines_and_holds_up_nobody),
        cmocka_unit_test(a_pipe_that_nobody_reads_is_not_waited_for),
        cmocka_unit_test(a_line_after_a_torn_one_begins_on_its_own),
    };
    int result;

    snprintf(path, sizeof(path), "/tmp/chatd-test-log.%d", (int)getpid());
    result = cmocka_run_group_tests_name("log", tests, NULL, NULL);
    unlink(path);
    return result;
}
