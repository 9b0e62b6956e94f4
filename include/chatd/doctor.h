/* doctor.h - `chatd doctor`: how many connections this machine holds with these settings, what stops it
 * there, and what to type. */
#ifndef CHATD_DOCTOR_H
#define CHATD_DOCTOR_H

/* Runs the subcommand; argv[0] is what messages begin with. Returns the exit code: 0 the connections asked
 * for by -n are held, 1 they are not or the settings are wrong, 2 for wrong usage. */
int doctor_main(int argc, char **argv);

#endif
