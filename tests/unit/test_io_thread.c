/* SPDX-License-Identifier: Apache-2.0
 *
 * Between threads on the real machine: messages, works, several loops.
 */
#include "tests/unit/test_io_common.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- Messages --------------------------------------------------------------------------------
 */

#define N_SENDERS  2
#define N_MESSAGES 100000

struct message {
	struct io_msg msg;
	int sender;
	int number;
};

struct sender {
	pthread_t thread;
	struct message *messages;
	int n_arrived;
	int n_disorder;
};

static struct sender senders[N_SENDERS];
static int n_to_come;

static void message_run(struct io_msg *msg)
{
	struct message *m = container_of(msg, struct message, msg);
	struct sender *s = &senders[m->sender];

	s->n_disorder += m->number != s->n_arrived;
	s->n_arrived++;
	if (--n_to_come == 0)
		io_loop_stop(test_loop);
}

static void *sender_main(void *context)
{
	struct sender *s = context;

	for (int i = 0; i < N_MESSAGES; i++) {
		struct message *m = &s->messages[i];

		*m = (struct message){{.run = message_run}, (int)(s - senders), i};
		io_post(test_loop, &m->msg);
		if (i % 5000 == 0)
			usleep(200); /* lets the loop fall asleep now and then */
	}
	return NULL;
}

/* Each message from several threads arrives once, those of one thread in order, and none is
 * forgotten by a loop that falls asleep at that moment. */
static void messages_arrive_in_order(void **state)
{
	(void)state;
	n_to_come = N_SENDERS * N_MESSAGES;
	for (int i = 0; i < N_SENDERS; i++) {
		senders[i] = (struct sender){
		    .messages = mem_calloc(N_MESSAGES, sizeof(struct message)),
		};
		assert_int_equal(pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]),
				 0);
	}
	assert_int_equal(io_loop_run(test_loop), 0);
	for (int i = 0; i < N_SENDERS; i++) {
		pthread_join(senders[i].thread, NULL);
		assert_int_equal(senders[i].n_arrived, N_MESSAGES);
		assert_int_equal(senders[i].n_disorder, 0);
		mem_free(senders[i].messages);
	}
}

static void message_again(struct io_msg *msg)
{
	if (--n_to_come == 0)
		io_loop_stop(test_loop);
	else
		io_post(test_loop, msg);
}

/* A message may post itself again to its own loop. */
static void message_to_oneself(void **state)
{
	struct io_msg msg = {.run = message_again};

	(void)state;
	n_to_come = 1000;
	io_post(test_loop, &msg);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(n_to_come, 0);
}

/* ---- Two loops -------------------------------------------------------------------------------
 */

struct ball {
	struct io_msg msg;
	struct io_loop *loops[2];
	int bounces;
};

static void ball_run(struct io_msg *msg)
{
	struct ball *ball = container_of(msg, struct ball, msg);

	if (ball->bounces == 0) {
		io_loop_stop(ball->loops[0]);
		io_loop_stop(ball->loops[1]);
		return;
	}
	ball->bounces--;
	io_post(ball->loops[ball->bounces % 2], msg);
}

/* Two sleeping loops wake each other, again and again: the case in which a lost wake-up hangs. */
static void two_loops_wake_each_other(void **state)
{
	struct io_loop_config config = {.name = "pong", .n_workers = 1, .cpu = -1};
	struct ball ball = {.msg.run = ball_run, .bounces = 20000};
	struct err err;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(io_loop_new(&config, &ball.loops[i], &err), 0);
		assert_int_equal(io_loop_start(ball.loops[i], &err), 0);
	}
	io_post(ball.loops[0], &ball.msg);
	for (int i = 0; i < 2; i++)
		assert_int_equal(io_loop_join(ball.loops[i]), 0);
	for (int i = 0; i < 2; i++)
		io_loop_free(ball.loops[i]);
}

#define N_FILE_OPS 500

struct file_user {
	struct io_loop *loop;
	struct io_file *file;
	struct io_op op;
	uint8_t *buf;
	uint64_t base; /* its own half of the file */
	int step;
	int errors;
};

static void file_user_step(struct io_op *op)
{
	struct file_user *u = container_of(op, struct file_user, op);
	uint64_t offset = u->base + (uint64_t)(u->step / 2) * 4096;

	u->errors += op->result < 0;
	if (u->step == 2 * N_FILE_OPS) {
		io_loop_stop(u->loop);
		return;
	}
	if (u->step++ % 2 == 0) {
		memset(u->buf, u->step & 0xff, 4096);
		io_write(u->loop, op, u->file, u->buf, 4096, offset);
	} else {
		memset(u->buf, 0, 4096);
		io_read(u->loop, op, u->file, u->buf, 4096, offset);
	}
}

/* One file is used by two loops at a time. */
static void two_loops_share_a_file(void **state)
{
	struct io_loop_config config = {.name = "user", .n_workers = 1, .cpu = -1};
	struct file_user users[2] = {0};
	char path[] = "/tmp/test-io-thread-XXXXXX";
	struct io_file *file;
	struct err err;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &file, &err), 0);
	unlink(path);
	for (int i = 0; i < 2; i++) {
		struct file_user *u = &users[i];

		assert_int_equal(io_loop_new(&config, &u->loop, &err), 0);
		u->file = file;
		u->buf = mem_alloc_pages(4096);
		u->base = (uint64_t)i * N_FILE_OPS * 4096;
		u->op.done = file_user_step;
		io_defer(u->loop, &u->op, 0);
		assert_int_equal(io_loop_start(u->loop, &err), 0);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(io_loop_join(users[i].loop), 0);
		assert_int_equal(users[i].errors, 0);
		mem_free_pages(users[i].buf, 4096);
		io_loop_free(users[i].loop);
	}
	io_file_close(file);
}

/* ---- Works -----------------------------------------------------------------------------------
 */

#define N_WORKS 5000

struct work {
	struct io_work work;
	int number;
	int square;
	pthread_t worker;
	int n_done;
};

static pthread_t loop_thread;
static int works_left;
static int works_on_wrong_thread;

static void work_run(struct io_work *work)
{
	struct work *w = container_of(work, struct work, work);

	w->square = w->number * w->number;
	w->worker = pthread_self();
}

static void work_done(struct io_work *work)
{
	struct work *w = container_of(work, struct work, work);

	w->n_done++;
	works_on_wrong_thread += !pthread_equal(loop_thread, pthread_self());
	works_on_wrong_thread += pthread_equal(loop_thread, w->worker) != 0;
	if (w->n_done == 1 && w->number % 10 == 0) {
		io_work(test_loop, work); /* once more, out of done */
		return;
	}
	if (--works_left == 0)
		io_loop_stop(test_loop);
}

/* Each work runs in a worker and is done on the loop; done may start it again. */
static void works_run_aside_and_end_on_the_loop(void **state)
{
	struct work *works = mem_calloc(N_WORKS, sizeof(*works));

	(void)state;
	loop_thread = pthread_self();
	works_left = N_WORKS;
	works_on_wrong_thread = 0;
	for (int i = 0; i < N_WORKS; i++) {
		works[i] = (struct work){{.run = work_run, .done = work_done}, .number = i};
		io_work(test_loop, &works[i].work);
		assert_int_equal(works[i].n_done, 0);
	}
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(works_on_wrong_thread, 0);
	for (int i = 0; i < N_WORKS; i++) {
		assert_int_equal(works[i].square, i * i);
		assert_int_equal(works[i].n_done, i % 10 == 0 ? 2 : 1);
	}
	mem_free(works);
}

#define N_WAITING 20 /* more than there are threads */

static atomic_bool may_go_on;

static void wait_for_flag(struct io_work *work)
{
	work_run(work);
	while (!atomic_load(&may_go_on))
		usleep(100);
}

static void let_go_on(struct io_work *work)
{
	work_run(work);
	atomic_store(&may_go_on, true);
}

/* Work that blocks, however much there is of it, holds up no work of the CPU. */
static void blocking_work_holds_up_no_other(void **state)
{
	struct work waiting[N_WAITING],
	    other = {{.run = let_go_on, .done = work_done}, .number = 1};

	(void)state;
	loop_thread = pthread_self();
	works_left = N_WAITING + 1;
	works_on_wrong_thread = 0;
	atomic_store(&may_go_on, false);
	for (int i = 0; i < N_WAITING; i++) {
		waiting[i] = (struct work){{.run = wait_for_flag, .done = work_done}, .number = 1};
		io_work_blocking(test_loop, &waiting[i].work);
	}
	io_work(test_loop, &other.work);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(works_left, 0);
	assert_int_equal(works_on_wrong_thread, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_loop_setup, test_loop_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(messages_arrive_in_order),
	    TEST(message_to_oneself),
	    TEST(two_loops_wake_each_other),
	    TEST(two_loops_share_a_file),
	    TEST(works_run_aside_and_end_on_the_loop),
	    TEST(blocking_work_holds_up_no_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
