// The closed table of errors that people and machines may see; docs/ERRORS.md has a section for each code and a test proves both equal.

/** sysexits.h numbers, so that scripts can tell "your YAML is wrong" from "a package is missing". */
const EXIT = { failed: 1, usage: 64, data: 65, noInput: 66, unavailable: 69, bug: 70, temporary: 75, config: 78 } as const;

export const ERRORS = {
  CONFIG_MISSING: { exit: EXIT.config, what: 'no settings file was found' },
  CONFIG_INVALID: { exit: EXIT.config, what: 'the settings file has faults' },
  PROFILES_INVALID: { exit: EXIT.data, what: 'boot-profiles have faults' },
  IMAGE_SPEC_INVALID: { exit: EXIT.data, what: 'an image.yaml has faults' },
  IMAGE_BUILD_FAILED: { exit: EXIT.failed, what: 'an image could not be built' },
  IMAGE_UNKNOWN: { exit: EXIT.noInput, what: 'no such image' },
  IMAGE_IN_USE: { exit: EXIT.failed, what: 'an image is in use' },
  TRANSFER_INVALID: { exit: EXIT.data, what: 'an exported image was refused' },
  KEY_INVALID: { exit: EXIT.data, what: 'a key was refused' },
  SIGNATURE_INVALID: { exit: EXIT.data, what: 'a signature was refused' },
  ARTIFACT_INVALID: { exit: EXIT.data, what: 'an artifact was refused' },
  BLOB_UNKNOWN: { exit: EXIT.noInput, what: 'no such blob' },
  ARTIFACT_UNKNOWN: { exit: EXIT.noInput, what: 'no such artifact' },
  NODE_UNKNOWN: { exit: EXIT.noInput, what: 'no such node' },
  BOOT_UNKNOWN: { exit: EXIT.noInput, what: 'no such boot' },
  NODE_NOT_HELD: { exit: EXIT.failed, what: 'the node is not held' },
  NODE_IN_YAML: { exit: EXIT.data, what: 'the node stands in YAML, which is its source' },
  PACKAGES_MISSING: { exit: EXIT.unavailable, what: 'Debian packages are missing' },
  LOADER_MISSING: { exit: EXIT.unavailable, what: 'a loader file is missing' },
  LOADER_INVALID: { exit: EXIT.data, what: 'a loader or loader set was refused' },
  DAEMON_UNREACHABLE: { exit: EXIT.unavailable, what: 'the daemon does not answer' },
  PORT_UNAVAILABLE: { exit: EXIT.unavailable, what: 'a port or address could not be bound' },
  DHCP_CONFLICT: { exit: EXIT.unavailable, what: 'another DHCP server answers on a link that is served in full mode' },
  STORE_UNUSABLE: { exit: EXIT.unavailable, what: 'the database or state directory cannot be used' },
  GIT_FAILED: { exit: EXIT.temporary, what: 'a Git repository could not be mirrored or pinned' },
  LAB_UNAVAILABLE: { exit: EXIT.unavailable, what: 'the lab cannot run here' },
  LAB_FAILED: { exit: EXIT.failed, what: 'a lab node did not get ready' },
  PROBE_FAILED: { exit: EXIT.failed, what: 'the probe got no usable answer' },
  ENROL_REFUSED: { exit: EXIT.failed, what: 'a machine may not open the session that it asked for' },
  ENROLLED_ALREADY: { exit: EXIT.failed, what: 'the session of a boot was asked for twice' },
  SESSION_REFUSED: { exit: EXIT.failed, what: 'a token does not open the session' },
  LEASES_INVALID: { exit: EXIT.data, what: 'a file of leases has faults' },
  LEASE_UNKNOWN: { exit: EXIT.noInput, what: 'no such lease' },
  REPORT_INVALID: { exit: EXIT.data, what: 'a report was not understood' },
  REQUEST_INVALID: { exit: EXIT.data, what: 'a request was not understood' },
  NOT_FOUND: { exit: EXIT.noInput, what: 'nothing is served under this path' },
  BUSY: { exit: EXIT.temporary, what: 'too much is asked for at once' },
  USAGE: { exit: EXIT.usage, what: 'the command line was not understood' },
  BUG: { exit: EXIT.bug, what: 'rackseed itself is at fault' },
} as const satisfies Record<string, { exit: number; what: string }>;

export type ErrorCode = keyof typeof ERRORS;

/**
 * An error that is shown to a person: what happened, where, and what to do. `message` is one line and carries the place
 * (file:line:column) when there is one; `hint` says what to do; `cause` is for the log, never for people or machines.
 */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, hint?: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'AppError';
    this.code = code;
    this.hint = hint;
  }

  get exit(): number {
    return ERRORS[this.code].exit;
  }
}

/** One mistake in a file that people edit; all faults of a directory are reported at once. Lines and columns count from 1. */
export interface Fault {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly hint?: string;
}

/** `boot-profiles/a.yaml:3:7: message (hint)`, one line: the form that editors and terminals make clickable. A key of YAML that the message names may have any characters. */
export function formatFault(fault: Fault): string {
  // Control characters would also move a terminal's cursor.
  return `${fault.file}:${fault.line}:${fault.column}: ${fault.message}${fault.hint ? ` (${fault.hint})` : ''}`.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ');
}

/** Faults as one error for the command line. */
export class FaultsError extends AppError {
  readonly faults: readonly Fault[];

  constructor(code: ErrorCode, faults: readonly Fault[], hint?: string) {
    super(code, `${ERRORS[code].what}: ${faults.length} ${faults.length === 1 ? 'fault' : 'faults'}`, hint);
    this.faults = faults;
  }
}

/** One line for any thrown value, for places where a stack would help nobody. */
export function lineOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}
