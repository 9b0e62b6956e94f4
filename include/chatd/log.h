/* log.h - one line per event, with stable keys.
 *
 * A line is an event name and `key=value` pairs, readable in development and one JSON object in
 * production. The sink is standard error or LOG_FILE; it is one of the two process-wide mutable things in
 * chatd (the other is the metrics slot), because everybody may log.
 *
 * The pairs are given as one printf-like format, checked by the compiler, whose words are
 * `key=%conversion`, separated by one space (an event without pairs gives " "):
 *
 *     log_info("worker_started", "slot=%d pid=%d", slot, pid);
 *     log_warn("store_failed", "error=%s retry_ms=%u", msg, ms);
 *     log_info("stopped", " ");
 *
 * Conversions: %s %d %i %u %x %o, each also with h, l, ll, z, j, t; %f %e %g %c %p %%, with flags, width
 * and precision. Text may stand around them (`page=http://%s:%d/`) and several make one value. A value
 * that is one number alone is a number in JSON. A string is escaped and quoted as needed (line breaks,
 * terminal controls, text direction marks, broken UTF-8), so what a peer sent can't forge a line. A line
 * is at most LOG_LINE_MAX bytes and written by one write(2); a longer one is cut and says so (`cut=true`).
 * A line that the sink doesn't take at once (a full pipe), or not whole (a full disk), is lost: logging never
 * waits, and the next line begins on its own.
 *
 * Lines of one cause, which is an event with the value of its key `reason`, are limited to LOG_BURST a
 * second. What was left out is said once the second is over: `suppressed=N` on that cause's next line, or,
 * when none comes, on a line `log_suppressed of=EVENT reason=… suppressed=N` by the tick. A line that was
 * lost is counted as left out, too. Any thread may log; errno is kept. */
#ifndef CHATD_LOG_H
#define CHATD_LOG_H

#include <stdbool.h>

enum { LOG_LINE_MAX = 2048, LOG_BURST = 50 };

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_READABLE, LOG_JSON };

/* Chooses form and threshold. `path` empty means standard error. Negative errno when the file can't be
 * opened (the sink stays what it was); -ENXIO when it is a FIFO that nobody reads. Called before fork and
 * again on reload; not while threads log. */
int log_open(const char *path, enum log_format format, enum log_level threshold);

/* Opens the same path again (SIGUSR1: after a rename by logrotate), with the errors of log_open. Standard
 * error: nothing to do. Other threads may log meanwhile. */
int log_reopen(void);

/* Whether lines of that level are written: for who would do something first that only the log needs. */
bool log_wants(enum log_level level);

/* Says what was left out of causes that are silent since the last second, or of all: by the tick, and at the
 * end of the process. */
void log_tell_suppressed(bool all);

/* Names this process in its lines: worker >= 0 adds worker=N. Forgets what the process it was forked from
 * left out. */
void log_set_worker(int worker);

void log_event(enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_debug(event, ...) log_event(LOG_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...) log_event(LOG_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) log_event(LOG_WARN, event, __VA_ARGS__)
#define log_error(event, ...) log_event(LOG_ERROR, event, __VA_ARGS__)

#endif
