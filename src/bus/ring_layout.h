/* ring_layout.h - what lies in the shared file, and the functions that src/bus's files share over it.
 *
 * Rows (rooms, members, seats) are the truth; chains and lists between them are derived, and rebuilt from
 * the rows when a process died inside the lock. A row becomes true by its `used` byte, written last.
 *
 * Indices into row tables are 32 bits, RING_NONE is nobody. The layout number changes with every change
 * here. */
#ifndef CHATD_RING_LAYOUT_H
#define CHATD_RING_LAYOUT_H

#include <pthread.h>
#include <stdatomic.h>

#include "chatd/bus.h"
#include "chatd/ring.h"

enum {
    RING_LAYOUT = 6,
    RING_INBOX = 4096,          /* positions in a worker's inbox, a power of two */
    RING_MEMBERS_MAX = 1 << 20, /* rows of (room, user, worker) */
    RING_CHUNK = 1024,          /* rows whose memory is reserved at a time */
    RING_INTEREST_WORDS = RING_ATTACH_MAX / 64,
};

#define RING_NONE UINT32_MAX
#define RING_MAGIC 0x676f6c6474616863ULL /* "chatdlog" */

enum ring_kind { RING_PAD = 1, RING_MESSAGE, RING_EVENT };

struct ring_record {
    uint32_t size; /* of the whole record, a multiple of 8; a pad has only this and kind */
    uint8_t kind;
    uint8_t room_length;
    uint8_t user_length;
    uint8_t key_length;
    uint32_t room; /* row at the time of writing: compare the name as well */
    uint32_t event_length;
    uint64_t seq;
    uint64_t previous;          /* number before, in the same room */
    uint64_t previous_position; /* record before, in the same room; 0 none */
    uint64_t key_position;      /* record before, in the same key bucket; 0 none */
    uint64_t ordinal;           /* messages appended so far, this one included */
    int64_t time_ms;
    int64_t received_us; /* Unix time at which its publisher had read it; 0 unknown */
    uint8_t uid[MESSAGE_UID_SIZE];
    _Atomic uint64_t settled; /* number it stands under in the store, 0 its own */
    _Atomic uint64_t moved;   /* position of its second publication, 0 none */
    char data[];              /* room, user, key, event */
};

struct ring_room {
    uint8_t used;
    uint8_t name_length;
    char name[MESSAGE_ROOM_MAX];
    uint32_t next;         /* in the hash chain, or in the free list */
    uint32_t members;      /* distinct users */
    uint32_t first_member; /* list of member rows */
    uint64_t seq;          /* highest number given */
    uint64_t position;     /* newest message, 0 none */
    int64_t time_ms;       /* of the newest message: time never falls within a room */
    uint64_t forgotten;    /* ring_forget: records up to this number are not shown any more */
    uint64_t interested[RING_INTEREST_WORDS]; /* seats that subscribed */
};

struct ring_member {
    uint8_t used;
    uint8_t user_length;
    uint16_t seat;
    uint32_t room;
    uint32_t next; /* in the hash chain of (room, user), or in the free list */
    uint32_t room_next;
    uint32_t room_previous;
    uint32_t connections; /* of this user on this worker in this room */
    char user[MESSAGE_USER_MAX];
};

enum ring_seat_state { RING_SEAT_FREE, RING_SEAT_TAKEN };

struct ring_seat {
    pthread_mutex_t life; /* held by the worker's main thread while it lives */
    _Atomic uint32_t state;
    _Atomic uint32_t signalled; /* a datagram is under way: no second one is needed */
    _Atomic uint32_t lost;      /* the inbox ran over */
    _Atomic uint64_t awaited;   /* wake when committed has passed this; 0 no */
    _Atomic uint64_t inbox_head; /* moved by publishers, under the lock */
    _Atomic uint64_t inbox_tail; /* moved by the worker */
    _Atomic uint64_t wake_name;  /* random, new with every worker: part of its socket's name */
} __attribute__((aligned(64)));

/* Rows of one kind: [0, high) were ever used, [0, reserved) have memory; freed rows chain by their `next`. */
struct ring_rows {
    uint32_t capacity;
    uint32_t high;
    uint32_t reserved;
    uint32_t free;
};

struct ring_header {
    uint64_t magic;
    uint32_t layout;
    uint32_t ready; /* written last when the file is made */
    uint32_t begun; /* ring_begin */
    uint64_t size;  /* bytes for records */
    uint64_t key_buckets;
    uint64_t hash_seed;
    uint8_t store_id[RING_ID_SIZE];
    pthread_mutex_t lock;
    pthread_mutex_t writer;
    _Atomic uint64_t head;
    _Atomic uint64_t tail;
    _Atomic uint64_t committed;
    _Atomic uint64_t messages; /* appended since the ring was made */
    struct {
        uint32_t armed;
        uint32_t room;
        uint64_t position;
        uint64_t end;
        uint64_t key_bucket;
        uint64_t replaces; /* position of the record that this one is the second publication of; 0 none */
    } redo; /* the record that is being made true */
    struct ring_rows rooms;
    struct ring_rows members;
    uint32_t room_hand; /* where the search for a room to forget goes on */
    _Atomic uint32_t work; /* futex: moves with every kick */
    _Atomic uint32_t writer_sleeps;
    _Atomic int64_t writer_beat_ms; /* monotonic; when the writer was last seen at work */
    pthread_mutex_t report_lock;
    int64_t report_since_ms;
    char report[RING_ERROR_MAX];
};

/* This process's view. */
struct ring {
    struct ring_header *header;
    struct ring_seat *seats;
    uint32_t *room_buckets;   /* rooms.capacity of them */
    uint32_t *member_buckets; /* RING_MEMBERS_MAX of them */
    _Atomic uint64_t *key_buckets;
    _Atomic uint64_t *inboxes;
    struct ring_room *rooms;
    struct ring_member *members;
    char *records;
    size_t mapped;
    int fd;
    int wake_fd; /* unbound datagram socket */
    int seat;    /* -1 before ring_sit */
    char path[128];
};

/* ring.c */
void ring_lock(struct ring *ring); /* finishes what a dead holder left */
void ring_unlock(struct ring *ring);
bool ring_reserve(struct ring *ring, const void *start, size_t length); /* memory behind a part of the file */
uint32_t ring_row_take(struct ring *ring, struct ring_rows *rows, void *table, size_t row_size,
                       const uint32_t *next_of_free);
uint64_t ring_hash(const struct ring *ring, uint64_t seed, const void *data, size_t length);

/* ring_append.c; the caller holds the lock where it says so */
struct ring_record *ring_at(const struct ring *ring, uint64_t position);
struct ring_append {
    enum ring_kind kind;
    struct text room, user, key;
    struct text head, tail; /* message: number and time go between; event: head alone */
    const uint8_t *uid;
    uint64_t replaces; /* 0, or the record whose second publication this is */
    int64_t received_us;
};
/* Lock held. 0 when there is no place; else the position. */
uint64_t ring_append(struct ring *ring, uint32_t room, const struct ring_append *append);
void ring_apply(struct ring *ring); /* lock held: makes the armed record true; may be repeated */
/* lock held */
uint64_t ring_find_key(const struct ring *ring, uint32_t room, struct text user, struct text key);
void ring_record_message(const struct ring_record *record, uint64_t position, struct message *message);
/* Without the lock: copies the record into `copy`; false when it is (being) overwritten. */
bool ring_copy(const struct ring *ring, uint64_t position, struct buf *copy);

/* roster.c: rooms and members. The lock is held. */
uint32_t roster_find(const struct ring *ring, struct text name);
uint32_t roster_open(struct ring *ring, struct text name, uint64_t highest); /* RING_NONE: no place */
/* false: no place */
bool roster_enter(struct ring *ring, uint32_t room, struct text user, int seat, bool *changed);
/* true: user is gone */
bool roster_leave(struct ring *ring, uint32_t room, struct text user, int seat);
/* drops the row; true: its user is gone from the room */
bool roster_remove(struct ring *ring, uint32_t member);
bool roster_first(const struct ring *ring, uint32_t member); /* of a user's rows one is: the lowest seat's */
void roster_rebuild(struct ring *ring); /* chains, lists and counts from the rows */

/* seat.c */
int ring_sit(struct ring *ring); /* takes a free seat; its number or a negative errno */
void ring_stand(struct ring *ring);
/* clears up after the dead; NULL tells nobody */
void ring_sweep(struct ring *ring, const struct bus_handler *handler);
void ring_post(struct ring *ring, unsigned seat, uint64_t position);   /* lock held: into its inbox */
void ring_wake(struct ring *ring, unsigned seat);
struct sockaddr_un;
size_t ring_wake_address(const struct ring *ring, unsigned seat, struct sockaddr_un *address);

#endif
