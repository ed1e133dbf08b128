/* SPDX-License-Identifier: Apache-2.0
 *
 * Worker threads, for the CPU and for what blocks. The loop gathers a turn's new works without a
 * lock and hands them over in one go. Finished ones come back on an atomic stack, and the one that
 * finds it empty posts the loop's `works_msg`.
 */
#include "io/internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define N_WORKERS_DFLT 2
#define N_BLOCKING     4

struct worker_pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct io_work *head; /* under lock, as the next two */
	struct io_work *tail;
	bool closing;
	char name[LOOP_NAME_MAX];
	unsigned n;
	pthread_t threads[N_WORKERS_MAX];
};

static struct io_work *worker_next(struct worker_pool *pool)
{
	struct io_work *work = NULL;

	pthread_mutex_lock(&pool->lock);
	while (!pool->head && !pool->closing)
		pthread_cond_wait(&pool->wake, &pool->lock);
	if (!pool->closing) {
		work = pool->head;
		pool->head = work->next;
	}
	pthread_mutex_unlock(&pool->lock);
	return work;
}

static void worker_return(struct io_work *work)
{
	struct io_loop *loop = work->loop;
	struct io_work *top = atomic_load_explicit(&loop->works_done, memory_order_relaxed);

	do
		work->next = top;
	while (!atomic_compare_exchange_weak_explicit(&loop->works_done, &top, work,
						      memory_order_acq_rel, memory_order_relaxed));
	/* Others only add to the stack until the loop has run the message: it is free. */
	if (!top)
		io_post(loop, &loop->works_msg);
}

static void *worker_main(void *context)
{
	struct worker_pool *pool = context;
	struct io_work *work;

	pthread_setname_np(pthread_self(), pool->name);
	while ((work = worker_next(pool))) {
		work->run(work);
		worker_return(work);
	}
	return NULL;
}

static void works_deliver(struct io_msg *msg)
{
	struct io_loop *loop = container_of(msg, struct io_loop, works_msg);
	struct io_work *top, *oldest = NULL;

	top = atomic_exchange_explicit(&loop->works_done, NULL, memory_order_acq_rel);
	while (top) {
		struct io_work *older = top->next;

		top->next = oldest;
		oldest = top;
		top = older;
	}
	while (oldest) {
		struct io_work *work = oldest;

		oldest = work->next;
		work->done(work);
	}
}

static void queue_add(struct io_loop *loop, struct work_queue *queue, struct io_work *work)
{
	loop_started(loop);
	work->loop = loop;
	work->next = NULL;
	if (queue->head)
		queue->tail->next = work;
	else
		queue->head = work;
	queue->tail = work;
}

void io_work(struct io_loop *loop, struct io_work *work)
{
	queue_add(loop, &loop->cpu_works, work);
}

static void queue_flush(struct work_queue *queue)
{
	struct worker_pool *pool = queue->pool;

	pthread_mutex_lock(&pool->lock);
	if (pool->head)
		pool->tail->next = queue->head;
	else
		pool->head = queue->head;
	pool->tail = queue->tail;
	if (queue->head == queue->tail)
		pthread_cond_signal(&pool->wake);
	else
		pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	queue->head = NULL;
}

void workers_flush(struct io_loop *loop)
{
	if (loop->cpu_works.head)
		queue_flush(&loop->cpu_works);
	if (loop->blocking_works.head)
		queue_flush(&loop->blocking_works);
}

/* After an error the pool is there, with the threads that could be had. */
static int pool_open(struct work_queue *queue, const char *name, const char *kind, unsigned n,
		     struct err *err)
{
	struct worker_pool *pool = mem_alloc(sizeof(*pool));

	if (!pool)
		return err_set(err, -ENOMEM, "out of memory for the worker threads");
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	queue->pool = pool;
	snprintf(pool->name, sizeof(pool->name), "%.11s-%s", name, kind);
	for (; pool->n < n; pool->n++) {
		int ret = thread_start(&pool->threads[pool->n], -1, worker_main, pool);

		if (ret < 0)
			return err_set(err, ret, "can't start a worker thread: %s", strerror(-ret));
	}
	return 0;
}

/* Without any thread the work is done here and now: slow, and right. */
void io_work_blocking(struct io_loop *loop, struct io_work *work)
{
	struct work_queue *queue = &loop->blocking_works;

	if (!queue->pool)
		pool_open(queue, loop->name, "io", N_BLOCKING, NULL);
	if (queue->pool && queue->pool->n > 0) {
		queue_add(loop, queue, work);
		return;
	}
	loop_started(loop);
	work->loop = loop;
	work->run(work);
	worker_return(work);
}

int workers_open(struct io_loop *loop, unsigned n, struct err *err)
{
	if (n > N_WORKERS_MAX)
		return err_set(err, -EINVAL, "%u worker threads are asked for, at most %d can be",
			       n, N_WORKERS_MAX);
	loop->works_msg.run = works_deliver;
	return pool_open(&loop->cpu_works, loop->name, "cpu", n ? n : N_WORKERS_DFLT, err);
}

static void pool_close(struct work_queue *queue)
{
	struct worker_pool *pool = queue->pool;

	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	mem_free(pool);
	queue->pool = NULL;
}

void workers_close(struct io_loop *loop)
{
	pool_close(&loop->cpu_works);
	pool_close(&loop->blocking_works);
}
