/* screen.c - painting and keys. */
#include "screen.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <curses.h>

enum { ESCAPE_MS = 25 };

static const struct {
    short colour;
    attr_t attributes, without; /* on a terminal with colours, and on one without */
} looks[SHEET_STYLES] = {
    [SHEET_PLAIN] = {-1, A_NORMAL, A_NORMAL},           [SHEET_STRONG] = {-1, A_BOLD, A_BOLD},
    [SHEET_HEAD] = {COLOR_CYAN, A_NORMAL, A_UNDERLINE}, [SHEET_GOOD] = {COLOR_GREEN, A_NORMAL, A_NORMAL},
    [SHEET_WARN] = {COLOR_YELLOW, A_NORMAL, A_BOLD},    [SHEET_BAD] = {COLOR_RED, A_BOLD, A_REVERSE},
};

/* https://no-color.org: set and not empty. */
static bool want_colours(void)
{
    const char *refused = getenv("NO_COLOR");

    return !(refused && refused[0] != '\0') && has_colors() && start_color() == OK;
}

bool screen_open(struct screen *screen)
{
    SCREEN *terminal = newterm(NULL, stdout, stdin);

    if (!terminal)
        return false;
    *screen = (struct screen){.page = 1};
    cbreak();
    noecho();
    nonl();
    curs_set(0);
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(ESCAPE_MS);
    screen->colours = want_colours();
    if (screen->colours) {
        use_default_colors();
        for (short i = 0; i < SHEET_STYLES; i++)
            init_pair((short)(i + 1), looks[i].colour, -1);
    }
    return true;
}

void screen_close(void)
{
    endwin();
}

static void set_style(const struct screen *screen, enum sheet_style style)
{
    attr_set(screen->colours ? looks[style].attributes : looks[style].without,
             (short)(screen->colours ? style + 1 : 0), NULL);
}

/* The spans of one line from `at` on; returns where the next line's are. */
static size_t paint_line(const struct screen *screen, const struct sheet *sheet, size_t at, int row)
{
    int column = 0;

    for (; at < sheet->count; at++) {
        const struct sheet_span *span = &sheet->spans[at];
        const char *text = sheet->text.data + span->offset;
        int used = 0;
        size_t fits;

        if (span->ends)
            return at + 1;
        /* At the last column some terminals would begin a new line. */
        fits = row < 0 ? 0 : sheet_fit(text, span->length, COLS - 1 - column, &used);
        if (fits > 0) {
            set_style(screen, span->style);
            mvaddnstr(row, column, text, (int)fits);
        }
        column = fits < span->length ? COLS : column + used;
    }
    return at;
}

void screen_paint(struct screen *screen, const struct sheet *sheet)
{
    size_t at, rows = LINES > 2 ? (size_t)LINES - 1 : 1, below = sheet->lines > 0 ? sheet->lines - 1 : 0;

    screen->page = rows;
    if (screen->top + rows > below)
        screen->top = below > rows ? below - rows : 0;
    erase();
    at = paint_line(screen, sheet, 0, 0);
    for (size_t line = 0; line < screen->top + rows && at < sheet->count; line++)
        at = paint_line(screen, sheet, at, line < screen->top ? -1 : 1 + (int)(line - screen->top));
    refresh();
}

void screen_scroll(struct screen *screen, int lines)
{
    if (lines < 0 && screen->top < (size_t)-lines)
        screen->top = 0;
    else
        screen->top += (size_t)lines; /* a negative one wraps to what is meant */
}

int screen_page(const struct screen *screen)
{
    return (int)screen->page;
}

int screen_fd(void)
{
    return isatty(STDIN_FILENO) ? STDIN_FILENO : -1;
}

int screen_key(void)
{
    struct pollfd terminal = {.fd = STDOUT_FILENO};
    int key = getch();

    /* Terminals move what they show about when their size changes. */
    if (key == KEY_RESIZE)
        clear();
    if (key != ERR)
        return key;
    return poll(&terminal, 1, 0) > 0 && (terminal.revents & (POLLHUP | POLLERR)) ? 'q' : 0;
}
