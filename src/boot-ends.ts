// What nodes report of their boots, and what becomes of them by it: a boot ends, a boot-once is used up, a node that fails again and again is held.
import { holdWords, type Failures } from './boot/hold.ts';
import { usesBootOnceUp } from './boot/next.ts';
import type { Node } from './boot/node.ts';
import { endOf, MOST_STAGES, type Report } from './boot/session.ts';
import { hasStage, type Boot } from './boot/timeline.ts';
import type { Log } from './log.ts';
import type { BootStore } from './store/boots.ts';
import { BOOT_ONCE_USED, NODE_HELD, type EventStore, type NewEvent } from './store/events.ts';

export interface BootEnds {
  /**
   * From within the session of the boot; `ready` uses the node's boot-once up, and nothing else does (TRAPS 1.10). `node` as the current generation has it, if it
   * does. Answers why the report is not taken, if it is not.
   */
  report(boot: Boot, node: Node | undefined, report: Report): Promise<string | undefined>;
  /** Once a hold. Never throws: on a full disk the node waits all the same. */
  held(node: string, failures: Failures): Promise<void>;
}

export function createBootEnds({ boots, events, log, now }: { readonly boots: BootStore; readonly events: EventStore; readonly log: Log; /** Milliseconds since 1970. */ readonly now: () => number }): BootEnds {
  const note = (event: NewEvent) => events.add(event).catch((error: unknown) => log.error({ node: event.node, err: error }, 'event not recorded'));
  return {
    async report(boot, node, report) {
      const at = now();
      if (boot.stages.length >= MOST_STAGES && !hasStage(boot, report.stage)) return `a boot has at most ${MOST_STAGES} stages`;
      await boots.see(boot.id, { name: report.stage, state: report.state, at, detail: report.detail });
      const { tail: _tail, ...detail } = report.detail;
      const line = { node: boot.node, mac: boot.mac, boot: boot.id, stage: report.stage, state: report.state, ...detail };
      if (report.state === 'failed') log.warn(line, 'stage');
      else log.info(line, 'stage');
      const end = endOf(report);
      if (!end || boot.state !== 'open') return undefined;
      const { state, why } = end;
      if (state === 'failed' && report.stage !== 'failed') await boots.see(boot.id, { name: 'failed', state: 'failed', at, detail: { message: why ?? '' } });
      const once = state === 'ready' && usesBootOnceUp(boot, node, await boots.history(boot.node));
      // An agent that got no answer in time says it again: the first one ended the boot.
      const ended = await boots.end(boot.id, state, at, why, ...(once ? ['local' as const] : []));
      if (!ended) return undefined;
      log.info({ node: boot.node, mac: boot.mac, boot: boot.id, state, why, seconds: (at - boot.startedAt) / 1000 }, 'boot ended');
      // An operator may have said something else meanwhile.
      if (ended !== 'said') return undefined;
      log.info({ node: boot.node, boot: boot.id }, 'boot-once is used up: it boots from its disk from now on');
      await note({ at, kind: BOOT_ONCE_USED, node: boot.node, boot: boot.id });
      return undefined;
    },
    async held(node, failures) {
      try {
        if (!(await boots.hold(node, now()))) return;
        const why = holdWords(failures);
        log.warn({ node, why }, 'node held');
        await note({ at: now(), kind: NODE_HELD, node, detail: { why, failedInRow: failures.failedInRow, ...failures.lastFailure } });
      } catch (error) {
        log.error({ node, err: error }, 'hold not recorded');
      }
    },
  };
}
