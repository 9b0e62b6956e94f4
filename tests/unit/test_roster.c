/* test_roster.c - rooms are opened, kept and forgotten; users are counted, not connections; the dead are
 * cleared up after. */
#include "ring_host.h"

static const struct text NO_KEY = {NULL, 0};

static int set_up(void **state)
{
    set_up_ring((struct host **)state, HOST_RING);
    return 0;
}

static int tear_down(void **state)
{
    close_host(*state);
    free(*state);
    return 0;
}

static bool enter(struct ring *ring, uint32_t room, const char *user, int seat)
{
    bool changed;

    ring_lock(ring);
    assert_true(roster_enter(ring, room, text(user), seat, &changed));
    ring_unlock(ring);
    return changed;
}

static bool leave(struct ring *ring, uint32_t room, const char *user, int seat)
{
    bool gone;

    ring_lock(ring);
    gone = roster_leave(ring, room, text(user), seat);
    ring_unlock(ring);
    return gone;
}

/* --- Rooms --- */

static void test_a_room_begins_at_the_next_multiple_and_is_opened_once(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    static const uint64_t HIGHEST[][2] = {
        {0, 1 << 20}, {1, 1 << 20}, {(1 << 20) - 1, 1 << 20}, {1 << 20, 2 << 20}, {(5 << 20) + 7, 6 << 20}};

    for (int i = 0; i < 5; i++) {
        char name[] = {'r', (char)('0' + i), 0};
        uint32_t row;

        ring_lock(ring);
        row = roster_open(ring, text(name), HIGHEST[i][0]);
        assert_int_equal(roster_open(ring, text(name), 99ULL << 20), row);
        assert_int_equal(roster_find(ring, text(name)), row);
        ring_unlock(ring);
        assert_int_equal(ring_at(ring, append(ring, row, "ann", NO_KEY, 1))->seq, HIGHEST[i][1]);
    }
    assert_int_equal(roster_find(ring, text("r")), RING_NONE);
    assert_int_equal(roster_find(ring, (struct text){"r0\0", 3}), RING_NONE);
    check_ring(ring);
}

static void test_names_of_every_length_are_told_apart(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    char name[MESSAGE_ROOM_MAX], beyond[300];

    memset(name, 0, sizeof(name));
    memset(beyond, 0, sizeof(beyond));
    ring_lock(ring);
    for (size_t length = 1; length <= sizeof(name); length++)
        assert_int_equal(roster_open(ring, (struct text){name, length}, 0), length - 1);
    for (size_t length = 1; length <= sizeof(name); length++)
        assert_int_equal(roster_find(ring, (struct text){name, length}), length - 1);
    assert_int_equal(roster_find(ring, (struct text){beyond, 256 + 5}), RING_NONE);
    assert_int_equal(roster_find(ring, (struct text){beyond, 129}), RING_NONE);
    ring_unlock(ring);
}

static void fill_table(struct ring *ring)
{
    char name[16];

    ring_lock(ring);
    for (uint32_t i = 0; i < ring->header->rooms.capacity; i++) {
        snprintf(name, sizeof(name), "room%u", i);
        assert_int_equal(roster_open(ring, text(name), 0), i);
    }
    ring_unlock(ring);
}

/* Whose are all kept but one gives way, and only that one. */
static void test_a_full_table_forgets_only_a_room_that_nobody_needs(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t capacity = ring->header->rooms.capacity, row;
    uint64_t uncommitted;

    fill_table(ring);
    for (uint32_t i = 0; i < capacity; i++)
        ring->rooms[i].interested[i % RING_INTEREST_WORDS] = 1ULL << (i % 64);
    ring_lock(ring);
    assert_int_equal(roster_open(ring, text("new"), 0), RING_NONE);
    for (uint32_t i = 0; i < RING_INTEREST_WORDS; i++) {
        ring->rooms[7].interested[i] = 0;
        ring->rooms[8].interested[i] = 0;
        ring->rooms[9].interested[i] = 0;
    }
    ring_unlock(ring);
    enter(ring, 7, "ann", 0);
    uncommitted = append(ring, 8, "ann", NO_KEY, 1);
    ring_commit(ring, uncommitted);
    ring->rooms[9].seq = 12345;
    ring_lock(ring);
    assert_int_equal(roster_open(ring, text("new"), 3 << 20), 9);
    assert_int_equal(ring->rooms[9].seq, (4 << 20) - 1);
    assert_int_equal(roster_find(ring, text("room9")), RING_NONE);
    ring->rooms[9].interested[0] = 1;
    assert_int_equal(roster_open(ring, text("room9"), 0), RING_NONE);
    ring_unlock(ring);
    /* The member leaves, the message is stored: those two may go now. */
    assert_true(leave(ring, 7, "ann", 0));
    commit_all(ring);
    ring_lock(ring);
    row = roster_open(ring, text("room9"), (1 << 20) + 5);
    assert_true(row == 7 || row == 8);
    assert_int_equal(ring->rooms[row].seq, (2 << 20) - 1); /* opened anew, it jumps */
    assert_int_equal(ring->rooms[row].position, 0);
    ring->rooms[row].interested[0] = 1;
    assert_int_equal(roster_open(ring, text("another"), 0), 15 - row);
    assert_int_equal(roster_open(ring, text("one more"), 0), 15 - row);
    ring_unlock(ring);
}

/* --- Members --- */

static void test_users_are_counted_and_not_connections(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t room = open_room(ring, "lobby"), den = open_room(ring, "den");
    const uint32_t *members = &ring->rooms[room].members;

    assert_true(enter(ring, room, "ann", 0));
    assert_false(enter(ring, room, "ann", 0));
    assert_false(enter(ring, room, "ann", 1));
    assert_true(enter(ring, room, "bob", 1));
    assert_true(enter(ring, den, "ann", 0));
    assert_int_equal(*members, 2);
    check_ring(ring);
    assert_false(leave(ring, room, "ann", 0));
    assert_false(leave(ring, room, "ann", 0));
    assert_false(leave(ring, room, "ann", 0)); /* once too often */
    assert_int_equal(*members, 2);
    assert_true(leave(ring, room, "ann", 1));
    assert_int_equal(*members, 1);
    assert_true(leave(ring, room, "bob", 1));
    assert_false(leave(ring, room, "nobody", 1));
    assert_int_equal(*members, 0);
    assert_int_equal(ring->rooms[den].members, 1);
    check_ring(ring);
}

/* Whatever order they come and go in: `first` is one row of each user, and counts agree with a plain
 * model. */
static void test_any_order_of_coming_and_going_counts_right(void **state)
{
    enum { ROOMS = 3, USERS = 6, SEATS = 3 };
    struct ring *ring = ((struct host *)*state)->ring;
    unsigned model[ROOMS][USERS][SEATS] = {0}, seed = 42;

    for (int i = 0; i < ROOMS; i++)
        open_room(ring, (char[]){'a' + (char)i, 0});
    for (int i = 0; i < 20000; i++) {
        unsigned room = (unsigned)rand_r(&seed) % ROOMS, user = (unsigned)rand_r(&seed) % USERS,
                 seat = (unsigned)rand_r(&seed) % SEATS, before = 0, after = 0;
        char name[] = {'u', (char)('0' + user), 0};
        bool told;

        for (int s = 0; s < SEATS; s++)
            before += model[room][user][s];
        if (rand_r(&seed) % 2) {
            told = enter(ring, room, name, (int)seat);
            model[room][user][seat]++;
        } else {
            told = leave(ring, room, name, (int)seat);
            model[room][user][seat] -= model[room][user][seat] > 0;
        }
        for (int s = 0; s < SEATS; s++)
            after += model[room][user][s];
        assert_int_equal(told, (before == 0) != (after == 0));
        if (i % 100 == 0)
            check_ring(ring);
    }
    ring_lock(ring);
    roster_rebuild(ring);
    ring_unlock(ring);
    check_ring(ring);
}

static void test_a_full_member_table_is_no_place(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    uint32_t room = open_room(ring, "lobby");
    bool changed;

    enter(ring, room, "ann", 0);
    ring->header->members.high = ring->header->members.capacity;
    ring_lock(ring);
    assert_false(roster_enter(ring, room, text("bob"), 0, &changed));
    assert_true(roster_enter(ring, room, text("ann"), 0, &changed) && !changed);
    ring_unlock(ring);
    ring->header->members.high = 1;
    assert_int_equal(ring->rooms[room].members, 1);
    check_ring(ring);
}

/* --- Death inside the lock --- */

static void come_and_go(struct ring *ring, int arg)
{
    bool changed;

    (void)arg;
    ring_lock(ring);
    roster_enter(ring, 0, text("new"), 1, &changed);
    roster_enter(ring, 0, text("both"), 1, &changed);
    roster_leave(ring, 0, text("only"), 0);
    roster_leave(ring, 0, text("both"), 0);
    roster_leave(ring, 0, text("both"), 1);
    ring_unlock(ring);
}

/* As the sweep does it: rows of the dead are dropped whatever their count of connections says. */
static void drop_seats_below(struct ring *ring, int seat)
{
    ring_lock(ring);
    for (uint32_t row = 0; row < ring->header->members.high; row++)
        if (ring->members[row].used && ring->members[row].seat < seat)
            roster_remove(ring, row);
    ring_unlock(ring);
}

static void check_and_begin_again(struct ring *ring, int arg)
{
    (void)arg;
    check_ring(ring);
    drop_seats_below(ring, 2);
    assert_int_equal(ring->rooms[0].members, 1); /* who had nothing to do with it */
    enter(ring, 0, "both", 0);
    enter(ring, 0, "only", 0);
    check_ring(ring);
}

static void test_death_at_any_instruction_of_enter_and_leave_keeps_the_counts_right(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    open_room(ring, "lobby");
    enter(ring, 0, "both", 0);
    enter(ring, 0, "other", 2);
    enter(ring, 0, "only", 0);
    die_everywhere(come_and_go, ring, check_and_begin_again);
}

static void open_one_room(struct ring *ring, int arg)
{
    char name[8];

    snprintf(name, sizeof(name), "r%d", arg);
    open_room(ring, name);
}

static void check_rooms_alone(struct ring *ring, int arg)
{
    char name[8];
    uint32_t row, used = 0;

    ring_lock(ring);
    check_rooms(ring);
    snprintf(name, sizeof(name), "r%d", arg);
    row = roster_find(ring, text(name));
    if (row == RING_NONE)
        row = roster_open(ring, text(name), 0);
    assert_int_not_equal(row, RING_NONE);
    assert_int_equal(ring->rooms[row].seq, (1 << 20) - 1);
    assert_int_equal(ring->rooms[row].members, 0);
    assert_int_equal(ring->rooms[row].first_member, RING_NONE);
    assert_int_equal(roster_find(ring, text("kept")), 0);
    for (uint32_t i = 0; i < ring->header->rooms.high; i++)
        used += ring->rooms[i].used;
    assert_true(used == ring->header->rooms.high);
    ring_unlock(ring);
}

static void test_death_at_any_instruction_of_opening_leaves_a_room_or_none(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    ring->rooms[open_room(ring, "kept")].interested[0] = 1;
    die_everywhere(open_one_room, ring, check_rooms_alone);
}

static void test_death_at_any_instruction_of_forgetting_leaves_a_room_or_none(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    /* A table of eight: the rest is as if it were not there. */
    ring->header->rooms.capacity = 8;
    ring_lock(ring);
    roster_rebuild(ring);
    ring_unlock(ring);
    ring->rooms[open_room(ring, "kept")].interested[0] = 1;
    for (int i = 1; i < 8; i++)
        open_room(ring, (char[]){'x', (char)('0' + i), 0});
    die_everywhere(open_one_room, ring, check_rooms_alone);
    assert_int_equal(ring->header->rooms.high, 8);
}

/* --- Seats --- */

struct heard {
    unsigned calls;
    char users[64][8];
    uint32_t left[64];
};

static void on_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    struct heard *heard = arg;

    assert_true(text_is(room, "lobby"));
    assert_true(heard->calls < 64 && user.length < 8);
    memcpy(heard->users[heard->calls], user.data, user.length);
    heard->left[heard->calls++] = members;
}

static unsigned times(const struct heard *heard, const char *user)
{
    unsigned count = 0;

    for (unsigned i = 0; i < heard->calls; i++)
        count += strcmp(heard->users[i], user) == 0;
    return count;
}

static void live_and_die(struct ring *ring, int arg)
{
    bool changed;
    int seat;

    seat = ring_sit(ring);
    must(seat == arg);
    ring_lock(ring);
    for (int room = 0; room < 3; room++)
        ring->rooms[room].interested[seat / 64] |= 1ULL << (seat % 64);
    must(roster_enter(ring, 0, text("both"), seat, &changed) &&
         roster_enter(ring, 0, text("only"), seat, &changed) &&
         roster_enter(ring, 0, text("only"), seat, &changed) &&
         roster_enter(ring, 0, text("too"), seat, &changed));
    ring_unlock(ring);
    raise(SIGKILL);
}

static void test_the_seat_of_a_dead_worker_is_cleared_and_each_user_told_once(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;
    struct heard heard = {0};
    const struct bus_handler handler = {.arg = &heard, .on_gone = on_gone};
    int seat;

    open_room(ring, "lobby");
    open_room(ring, "den");
    open_room(ring, "hall");
    seat = ring_sit(ring);
    assert_int_equal(seat, 0);
    ring->rooms[1].interested[0] = 1;
    enter(ring, 0, "both", 0);
    run_to_death(live_and_die, ring, 1);
    assert_int_equal(ring->rooms[0].members, 3);
    assert_int_equal(ring->rooms[1].interested[0], 3);
    ring_sweep(ring, &handler);
    assert_int_equal(heard.calls, 2);
    assert_int_equal(times(&heard, "only"), 1);
    assert_int_equal(times(&heard, "too"), 1);
    assert_int_equal(heard.left[0], 2);
    assert_int_equal(heard.left[1], 1);
    assert_int_equal(ring->rooms[0].members, 1);
    for (int room = 0; room < 3; room++)
        assert_int_equal(ring->rooms[room].interested[0], room == 1);
    ring_sweep(ring, &handler);
    assert_int_equal(heard.calls, 2);
    check_ring(ring);
    run_to_death(live_and_die, ring, 1); /* the seat is free again */
    ring_sweep(ring, &handler);
    assert_int_equal(heard.calls, 4);
    ring_stand(ring);
    assert_int_equal(ring->rooms[0].members, 0);
    assert_int_equal(ring->rooms[1].interested[0], 0);
}

static void sweep_and_die(struct ring *ring, int arg)
{
    (void)arg;
    ring->seat = -1;
    ring_sweep(ring, NULL);
}

static void check_swept_at_last(struct ring *ring, int arg)
{
    (void)arg;
    ring_sweep(ring, NULL);
    assert_int_equal(ring->rooms[0].members, 0);
    assert_int_equal(ring->rooms[0].interested[0] | ring->rooms[2].interested[0], 0);
    assert_int_equal(ring->seats[0].state, RING_SEAT_FREE);
    check_ring(ring);
    run_to_death(live_and_die, ring, 0);
}

static void test_a_sweeper_that_dies_at_any_instruction_is_followed_by_another(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    open_room(ring, "lobby");
    open_room(ring, "den");
    open_room(ring, "hall");
    run_to_death(live_and_die, ring, 0);
    die_everywhere(sweep_and_die, ring, check_swept_at_last);
}

static void test_dead_seats_are_passed_over_until_they_are_swept(void **state)
{
    struct ring *ring = ((struct host *)*state)->ring;

    for (int i = 0; i < 3; i++)
        open_room(ring, (char[]){'a' + (char)i, 0});
    for (int seat = 0; seat < 5; seat++)
        run_to_death(live_and_die, ring, seat);
    ring_sweep(ring, NULL);
    assert_int_equal(ring_sit(ring), 0);
    ring_stand(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_room_begins_at_the_next_multiple_and_is_opened_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_names_of_every_length_are_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_table_forgets_only_a_room_that_nobody_needs, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_users_are_counted_and_not_connections, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_order_of_coming_and_going_counts_right, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_member_table_is_no_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_death_at_any_instruction_of_enter_and_leave_keeps_the_counts_right, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_death_at_any_instruction_of_opening_leaves_a_room_or_none,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_death_at_any_instruction_of_forgetting_leaves_a_room_or_none,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_seat_of_a_dead_worker_is_cleared_and_each_user_told_once,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_sweeper_that_dies_at_any_instruction_is_followed_by_another,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dead_seats_are_passed_over_until_they_are_swept, set_up,
                                        tear_down),
    };

    quiet_log();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
