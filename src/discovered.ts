// PXE machines that no profile names, as they were seen: for people who add them. In memory only, so that strangers write nothing to disk.
import type { Mac } from './addr.ts';
import type { Arch, BootRequest, Firmware } from './boot/request.ts';

export interface DiscoveredMachine {
  readonly mac: Mac;
  readonly uuid?: string;
  readonly vendorClass?: string;
  readonly arch?: Arch;
  readonly firmware?: Firmware;
  /** Milliseconds since 1970. */
  readonly firstAt: number;
  readonly lastAt: number;
  /** DISCOVERs seen. */
  readonly count: number;
}

export interface Discovered {
  see(request: BootRequest, at: number): void;
  /** Newest first. */
  list(): readonly DiscoveredMachine[];
}

/** A rack row is hundreds of machines; a flood of made-up addresses shall not cost memory. */
export const DISCOVERED_KEPT = 1024;

/**
 * When it is full, the one that was seen once and longest ago goes first: made-up addresses come once and drive each other out, a machine's
 * firmware asks again and again.
 */
export function createDiscovered(): Discovered {
  const once = new Map<Mac, DiscoveredMachine>();
  const often = new Map<Mac, DiscoveredMachine>();
  return {
    see({ mac, uuid, vendorClass, arch, firmware }, at) {
      if (mac === undefined) return;
      const before = often.get(mac) ?? once.get(mac);
      const said = { ...(uuid ? { uuid } : {}), ...(vendorClass ? { vendorClass } : {}), ...(arch ? { arch } : {}), ...(firmware ? { firmware } : {}) };
      once.delete(mac);
      // Deleted first, so that a map's order is the order of the last sighting.
      often.delete(mac);
      (before ? often : once).set(mac, { ...before, mac, ...said, firstAt: before?.firstAt ?? at, lastAt: at, count: (before?.count ?? 0) + 1 });
      if (once.size + often.size <= DISCOVERED_KEPT) return;
      // Never the one that was just seen.
      const full = once.size > 1 ? once : often;
      full.delete(full.keys().next().value!);
    },
    list: () => [...once.values(), ...often.values()].sort((a, b) => b.lastAt - a.lastAt),
  };
}
