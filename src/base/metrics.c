/* metrics.c - counters in memory shared by all processes of one chatd. How they are shown: metrics_json.c and
 * metrics_text.c. */
#include "chatd/metrics.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "metrics_table.h"

static const int64_t bounds[] = {METRICS_BOUNDS};

_Static_assert(sizeof(bounds) / sizeof(bounds[0]) + 1 == METRICS_BUCKETS, "one bucket more than bounds");

static struct metrics_slot private_slot;
struct metrics_slot *metrics_mine = &private_slot;

struct metrics *metrics_map(void)
{
    struct metrics *metrics;

    metrics = mmap(NULL, sizeof(*metrics), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (metrics == MAP_FAILED)
        return NULL;
    metrics->started_ms = clock_wall_ms();
    return metrics;
}

static int64_t value_at(const struct metrics_slot *slot, size_t offset)
{
    const _Atomic int64_t *field = (const _Atomic int64_t *)((const char *)slot + offset);

    return atomic_load_explicit(field, memory_order_relaxed);
}

void metrics_clear(struct metrics *metrics, int worker)
{
    struct metrics_slot *slot = &metrics->slots[worker];
    int used = metrics->used;

    while (used <= worker && !atomic_compare_exchange_weak(&metrics->used, &used, worker + 1))
        continue;
    for (unsigned i = 0; i < metrics_row_count; i++) {
        const struct metrics_row *row = &metrics_rows[i];

        if (row->type == METRICS_GAUGE || row->type == METRICS_PEAK)
            atomic_store_explicit((_Atomic int64_t *)((char *)slot + row->offset), 0, memory_order_relaxed);
    }
    atomic_store(&slot->ready, 0);
    atomic_store(&slot->draining, 0);
    atomic_store(&slot->beat_ms, 0);
    atomic_store(&slot->pid, 0);
}

void metrics_enter(struct metrics *metrics, int worker)
{
    metrics_clear(metrics, worker);
    metrics_mine = &metrics->slots[worker];
    metrics_set(beat_ms, clock_monotonic_ms());
    metrics_set(pid, getpid());
}

static int find_word(const char *const *words, int other, const char *code)
{
    for (int i = 0; i < other; i++) {
        if (strcmp(words[i], code) == 0)
            return i;
    }
    return other;
}

enum metrics_error metrics_error_of(const char *code)
{
    return (enum metrics_error)find_word(metrics_words_ERROR, METRICS_ERROR_other, code);
}

enum metrics_refusal metrics_refusal_of(const char *code)
{
    return (enum metrics_refusal)find_word(metrics_words_REFUSAL, METRICS_REFUSAL_other, code);
}

int64_t metrics_bound(unsigned bucket)
{
    return bounds[bucket];
}

unsigned metrics_bucket(int64_t us)
{
    unsigned bucket = 0;

    while (bucket < METRICS_BUCKETS - 1 && us > bounds[bucket])
        bucket++;
    return bucket;
}

void metrics_observe_many(struct metrics_histogram *histogram, int64_t us, int64_t times)
{
    if (us < 0)
        us = 0;
    atomic_fetch_add_explicit(&histogram->buckets[metrics_bucket(us)], times, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, us * times, memory_order_relaxed);
}

int64_t metrics_sum_at(const struct metrics *metrics, size_t offset)
{
    int64_t sum = 0;

    for (int i = 0; i < metrics->used; i++)
        sum += value_at(&metrics->slots[i], offset);
    return sum;
}

int64_t metrics_max_at(const struct metrics *metrics, size_t offset)
{
    int64_t max = 0;

    for (int i = 0; i < metrics->used; i++) {
        int64_t value = value_at(&metrics->slots[i], offset);

        max = value > max ? value : max;
    }
    return max;
}
