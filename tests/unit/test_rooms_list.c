/* test_rooms_list.c - the rooms of bus and store as one list. */
#include "chatd/rooms_list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

struct known {
    const char *room;
    uint32_t members;
    uint64_t seq;
};

/* Bus and store that know what the test says; the store's answer waits until the test lets it go. */
struct fake {
    struct bus bus;
    struct store store;
    const struct known *live;
    bool late;
    bus_on_rooms *bus_waiting;
    void *bus_waiting_arg;
    store_on_rooms *waiting;
    void *waiting_arg;
    uint32_t answers;
    json_t *answer;
};

/* Answers at once, or when the test lets it. */
static void answer_bus(struct fake *fake)
{
    struct bus_room rooms[ROOMS_LIST_MAX];
    const struct known *known = fake->live;
    uint32_t count = 0;

    for (; known->room != NULL && count < ROOMS_LIST_MAX; known++)
        rooms[count++] = (struct bus_room){{known->room, strlen(known->room)}, known->members, known->seq};
    fake->bus_waiting(fake->bus_waiting_arg, rooms, count);
}

static void take_bus_request(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    struct fake *fake = (struct fake *)bus;

    assert_int_equal(limit, ROOMS_LIST_MAX);
    fake->bus_waiting = done;
    fake->bus_waiting_arg = arg;
    if (!fake->late)
        answer_bus(fake);
}

static void take_request(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    struct fake *fake = (struct fake *)((char *)store - offsetof(struct fake, store));

    assert_int_equal(limit, ROOMS_LIST_MAX);
    fake->waiting = done;
    fake->waiting_arg = arg;
}

static void on_list(void *arg, const char *json, size_t length)
{
    struct fake *fake = arg;

    fake->answers++;
    fake->answer = json_loadb(json, length, 0, NULL);
    assert_non_null(fake->answer);
}

static const struct bus_ops bus_ops = {.rooms = take_bus_request};
static const struct store_ops store_ops = {.rooms = take_request};

/* The whole list as `room/members/seq ...`. */
static void list_is(const struct known *live, enum store_status status, const struct known *stored,
                    const char *expected)
{
    struct fake fake = {.bus = {.ops = &bus_ops}, .store = {.ops = &store_ops}, .live = live};
    struct text names[8];
    uint64_t highest[8];
    uint32_t count = 0;
    char text[512] = "";
    json_t *room;
    size_t i;

    rooms_list(&fake.bus, &fake.store, on_list, &fake);
    assert_int_equal(fake.answers, 0);
    for (; status == STORE_OK && stored[count].room != NULL; count++) {
        names[count] = (struct text){stored[count].room, strlen(stored[count].room)};
        highest[count] = stored[count].seq;
    }
    if (status == STORE_OK)
        fake.waiting(fake.waiting_arg, status, names, highest, count);
    else
        fake.waiting(fake.waiting_arg, status, NULL, NULL, 0);
    assert_int_equal(fake.answers, 1);
    json_array_foreach(fake.answer, i, room) {
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s/%lld/%lld", i > 0 ? " " : "",
                 json_string_value(json_object_get(room, "room")),
                 (long long)json_integer_value(json_object_get(room, "members")),
                 (long long)json_integer_value(json_object_get(room, "seq")));
    }
    json_decref(fake.answer);
    assert_string_equal(text, expected);
}

static const struct known none[] = {{NULL, 0, 0}};

static void test_nothing_known_is_an_empty_array(void **state)
{
    (void)state;
    list_is(none, STORE_OK, none, "");
}

static void test_rooms_of_bus_stand_before_those_only_the_store_has(void **state)
{
    static const struct known live[] = {{"general", 13, 58}, {"quiet", 0, 4}, {NULL, 0, 0}};
    static const struct known stored[] = {{"old", 0, 9}, {"older", 0, 7}, {NULL, 0, 0}};

    (void)state;
    list_is(live, STORE_OK, stored, "general/13/58 quiet/0/4 old/0/9 older/0/7");
    list_is(none, STORE_OK, stored, "old/0/9 older/0/7");
    list_is(live, STORE_OK, none, "general/13/58 quiet/0/4");
}

static void test_no_room_twice_and_the_higher_number_counts(void **state)
{
    static const struct known live[] = {{"a", 2, 5}, {"b", 1, 0}, {"c", 0, 3}, {NULL, 0, 0}};
    static const struct known stored[] = {
        {"c", 0, 3}, {"b", 0, 1048577}, {"d", 0, 1}, {"a", 0, 4}, {NULL, 0, 0}};

    (void)state;
    list_is(live, STORE_OK, stored, "a/2/5 b/1/1048577 c/0/3 d/0/1");
}

static void test_a_name_that_begins_another_is_another_room(void **state)
{
    static const struct known live[] = {{"ab", 1, 1}, {NULL, 0, 0}};
    static const struct known stored[] = {{"a", 0, 2}, {"abc", 0, 3}, {"тест", 0, 4}, {NULL, 0, 0}};

    (void)state;
    list_is(live, STORE_OK, stored, "ab/1/1 a/0/2 abc/0/3 тест/0/4");
}

static void test_without_the_store_the_rooms_of_the_bus_are_listed(void **state)
{
    static const struct known live[] = {{"a", 2, 5}, {NULL, 0, 0}};

    (void)state;
    list_is(live, STORE_FAILED, none, "a/2/5");
    list_is(live, STORE_BUSY, none, "a/2/5");
    list_is(none, STORE_FAILED, none, "");
}

/* The store's names are gone by the time a bus across the network answers. */
static void test_the_bus_may_answer_late(void **state)
{
    static const struct known live[] = {{"a", 2, 5}, {NULL, 0, 0}};
    struct fake fake = {.bus = {.ops = &bus_ops}, .store = {.ops = &store_ops}, .live = live, .late = true};
    char *names = strdup("ab");
    struct text stored[2] = {{names, 1}, {names + 1, 1}};
    uint64_t highest[2] = {9, 4};
    char *text;

    (void)state;
    rooms_list(&fake.bus, &fake.store, on_list, &fake);
    fake.waiting(fake.waiting_arg, STORE_OK, stored, highest, 2);
    free(names);
    memset(stored, 0, sizeof(stored));
    assert_int_equal(fake.answers, 0);
    answer_bus(&fake);
    assert_int_equal(fake.answers, 1);
    text = json_dumps(fake.answer, JSON_COMPACT);
    assert_string_equal(
        text, "[{\"room\":\"a\",\"members\":2,\"seq\":9},{\"room\":\"b\",\"members\":0,\"seq\":4}]");
    free(text);
    json_decref(fake.answer);
}

/* 600 of the bus and 600 of the store make the full 1,000. */
static void test_the_list_has_an_end(void **state)
{
    enum { EACH = 600 };
    struct fake fake = {.bus = {.ops = &bus_ops}, .store = {.ops = &store_ops}};
    static char names[2 * EACH][8];
    struct known live[EACH + 1] = {{NULL, 0, 0}};
    struct text stored[EACH];
    uint64_t highest[EACH];

    (void)state;
    for (int i = 0; i < EACH; i++) {
        snprintf(names[i], sizeof(names[i]), "b%d", i);
        snprintf(names[EACH + i], sizeof(names[i]), "s%d", i);
        live[i] = (struct known){names[i], 1, 1};
        stored[i] = (struct text){names[EACH + i], strlen(names[EACH + i])};
        highest[i] = 1;
    }
    fake.live = live;
    rooms_list(&fake.bus, &fake.store, on_list, &fake);
    fake.waiting(fake.waiting_arg, STORE_OK, stored, highest, EACH);
    assert_int_equal(json_array_size(fake.answer), ROOMS_LIST_MAX);
    assert_string_equal(json_string_value(json_object_get(json_array_get(fake.answer, EACH), "room")), "s0");
    json_decref(fake.answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_known_is_an_empty_array),
        cmocka_unit_test(test_rooms_of_bus_stand_before_those_only_the_store_has),
        cmocka_unit_test(test_no_room_twice_and_the_higher_number_counts),
        cmocka_unit_test(test_a_name_that_begins_another_is_another_room),
        cmocka_unit_test(test_without_the_store_the_rooms_of_the_bus_are_listed),
        cmocka_unit_test(test_the_bus_may_answer_late),
        cmocka_unit_test(test_the_list_has_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
