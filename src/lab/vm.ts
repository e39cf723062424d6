// A QEMU machine of the lab: diskless, boots from the network, its serial console in a file and on a Unix socket.
import { spawn, type ChildProcess } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { openSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import type { Mac } from '../addr.ts';
import { dieWithUs, ended, stop } from './child.ts';
import { emulatorOf, firmwareArgs, firmwareRow, QEMU, type LabFirmware } from './firmware.ts';
import type { Namespace } from './network.ts';

/** How guests run: by the processor's own virtualization, or emulated. */
export type Accel = 'kvm' | 'tcg';

export interface VmSpec {
  readonly name: string;
  readonly mac: Mac;
  /** A tap device that is there already, in the namespace where QEMU runs. */
  readonly tap: string;
  /** `type,option=value...` of QEMU's `-netdev`, where the card shall be plugged into something else than the tap. */
  readonly netdev?: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly firmware: LabFirmware;
  /** Its own copy of the firmware's variables (copyVars); for UEFI. */
  readonly vars?: string;
  readonly accel: Accel;
  /** More arguments for QEMU, such as a second serial line. */
  readonly more?: readonly string[];
}

export interface Console {
  /** Everything that the machine printed since power-on. */
  readonly log: string;
  /** A Unix socket: what is written there is typed at the machine. */
  readonly socket: string;
}

export interface Vm {
  readonly spec: VmSpec;
  readonly console: Console;
  /** Milliseconds since 1970, just before QEMU was started: the zero of the node's times. */
  readonly startedAt: number;
  /** Resolves when QEMU has ended, with its last words when we did not end it. */
  readonly exited: Promise<string | undefined>;
  /** Pulls the plug. */
  kill(): Promise<void>;
}

/** The MAC of the lab's n-th machine, counted from 1: the same in every run, in QEMU's own range. */
export function labMac(n: number): Mac {
  return `52:54:00:4c:42:${n.toString(16).padStart(2, '0')}`;
}

/**
 * Without cx16: with it, QEMU 7.2 and Linux 6.12 panic now and then in __kmalloc (docs/decisions/lab.md). arm64's `max` is no faster than a cortex-a57
 * (measured), which signs no pointers.
 */
const EMULATED_CPU = { amd64: 'max,-cx16', arm64: 'cortex-a57' } as const;

/**
 * QEMU's arguments; `console` undefined = the serial line is the terminal that QEMU runs in. Without -no-reboot: a node whose
 * initrd stage gives up reboots, and that must be a new boot.
 */
export function qemuArgs(spec: VmSpec, console?: Console): string[] {
  const { arch = 'amd64', card } = firmwareRow(spec.firmware);
  const serial = console ? ['-chardev', `socket,id=console,path=${comma(console.socket)},server=on,wait=off,logfile=${comma(console.log)}`, '-serial', 'chardev:console'] : ['-serial', 'stdio'];
  return [
    ...['-name', spec.name],
    // graphics=off sends what SeaBIOS and the ROM print to the serial line; EDK2 prints there anyway.
    ...['-machine', arch === 'arm64' ? 'virt' : 'q35,graphics=off', '-accel', spec.accel, '-cpu', spec.accel === 'kvm' ? 'host' : EMULATED_CPU[arch]],
    ...['-m', String(spec.memoryMiB), '-smp', String(spec.cpus)],
    ...['-nodefaults', '-display', 'none', ...serial],
    ...firmwareArgs(spec.firmware, spec.vars),
    ...['-boot', 'n'],
    ...['-netdev', `${spec.netdev ?? `tap,ifname=${spec.tap},script=no,downscript=no`},id=n0`],
    ...['-device', `${card},netdev=n0,mac=${spec.mac}`],
    ...(spec.more ?? []),
  ];
}

/** One line that starts the machine from any terminal of the same user, with its console there. */
export function qemuLine(ns: Namespace, spec: VmSpec): string {
  return ns.wrap([emulatorOf(spec.firmware), ...qemuArgs(spec)]).map(quoted).join(' ');
}

export function startVm(ns: Namespace, spec: VmSpec, dir: string): Vm {
  const console = { log: join(dir, `console-${spec.name}.log`), socket: join(dir, `console-${spec.name}.sock`) };
  const [program, ...args] = ns.wrap(dieWithUs([emulatorOf(spec.firmware), ...qemuArgs(spec, console)]));
  // The file is there from the start, so that a reader need not wait for QEMU to make it.
  closeSync(openSync(console.log, 'w'));
  const startedAt = Date.now();
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let killed = false;
  return {
    spec,
    console,
    startedAt,
    exited: ended(child).then((words) => (killed ? undefined : words)),
    kill() {
      killed = true;
      return stop(child, 'SIGKILL');
    },
  };
}

/**
 * What guests can run by here. /dev/kvm alone says little: it can be there and refuse `-cpu host` (nested clouds), so a machine
 * without a disk is started until its BIOS speaks; anything else within 5 s means emulation.
 */
export async function probeAccel(): Promise<Accel> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  const argv = [QEMU, '-machine', 'q35,graphics=off', '-accel', 'kvm', '-cpu', 'host', '-m', '64', '-nodefaults', '-display', 'none', '-serial', 'stdio', '-nic', 'none'];
  const [program, ...args] = dieWithUs(argv);
  const child: ChildProcess = spawn(program!, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  let printed = '';
  const spoke = await new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => resolve(false), 5_000);
    child.stdout!.on('data', (chunk: Buffer) => {
      printed += chunk.toString('latin1');
      if (printed.includes('SeaBIOS')) resolve(true);
    });
    void ended(child).then(() => resolve(false));
    child.once('close', () => clearTimeout(timer));
  });
  await stop(child, 'SIGKILL');
  return spoke ? 'kvm' : 'tcg';
}

/** In QEMU's option strings a comma is doubled. */
function comma(path: string): string {
  return path.replaceAll(',', ',,');
}

function quoted(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
