// Work of which much may come at once, done in short turns of this thread's event loop: what else the loop does has its own turn between.
import { createQueue } from './queue.ts';

/** So long a turn may take, and then the one call that it is in: DHCP's p99 is to be below 20 ms. */
const TURN_MS = 2;

/** Runs each of the tasks, in their order, from the next turn of the loop on. A task's promises that wait for no I/O are through before the next task begins. */
export function createTurns(turnMs: number = TURN_MS): (task: () => void) => void {
  const tasks = createQueue<() => void>();
  let running = false;
  let until = 0;
  function turn(): void {
    until = performance.now() + turnMs;
    next();
  }
  function next(): void {
    if (tasks.size() === 0) {
      running = false;
      return;
    }
    if (performance.now() >= until) return void setImmediate(turn);
    // The tick comes once no microtask is left, so that their time is measured, too.
    queueMicrotask(() => process.nextTick(next));
    tasks.take()();
  }
  return (task) => {
    tasks.put(task);
    if (running) return;
    running = true;
    setImmediate(turn);
  };
}
