/* screen.h - a sheet on the terminal, by ncurses. One screen per process. */
#ifndef CHATD_TOP_SCREEN_H
#define CHATD_TOP_SCREEN_H

#include <stdbool.h>

#include "sheet.h"

struct screen {
    bool colours;
    size_t top;  /* the first line of the sheet below its head that is seen */
    size_t page; /* how many are seen */
};

/* false: standard output is a terminal that ncurses doesn't know. */
bool screen_open(struct screen *screen);
void screen_close(void);

/* The first line stays, the others scroll. */
void screen_paint(struct screen *screen, const struct sheet *sheet);

/* By so many lines, or half pages with SCREEN_PAGE; the next painting keeps it within the sheet. */
void screen_scroll(struct screen *screen, int lines);
int screen_page(const struct screen *screen);

/* The next key pressed, one of ncurses' numbers; 0 when none is there, 'q' when the terminal is gone. */
int screen_key(void);

/* What to wait on for keys, -1 when standard input is no terminal. */
int screen_fd(void);

#endif
