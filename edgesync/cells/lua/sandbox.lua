-- The world of a script: what Redis 7.0 gives one, and nothing by which it could reach out of the
-- VM or hold it up. The chunk returns what edgesync/cells/scripts.py calls.
--
-- No single C function may run for long, for only between instructions is the budget looked at:
-- patterns go through patterns.lua where C could backtrack, sorting through a comparison in Lua.
-- Errors are raised again by every `pcall` once the budget is spent, so nothing catches that.

local command, long_command, find_plain, sha1hex, log, bits, patterns, json, msgpack = ...

local clock, sethook, getinfo = os.clock, debug.sethook, debug.getinfo
local byte, sub, find, format, rep = string.byte, string.sub, string.find, string.format, string.rep
local concat, sort, unpack = table.concat, table.sort, unpack
local error, type, tostring, tonumber, select = error, type, tostring, tonumber, select
local rawget, rawset, next, floor = rawget, rawset, next, math.floor
local pcall, xpcall, loadstring, setfenv, setmetatable = pcall, xpcall, loadstring, setfenv, setmetatable

local STEP = 200            -- instructions between two looks at the budget
local STRING_MAX = 8388608  -- bytes of one string that a script makes with string.rep
local DEPTH_MAX = 100       -- of a reply, as in Redis
local AT_ONCE_MAX = 1000   -- words of a command; Lua unpacks no more than 8000

-- Budget ----------------------------------------------------------------------------------------

local is_running, stopped, looks, deadline = false, nil, 0, 0

local function look()
  if not is_running then return end
  looks = looks - 1
  if looks <= 0 then stopped = "instructions" elseif clock() > deadline then stopped = "time" end
  if stopped then error(stopped, 0) end
end

-- Count what a C function does with `size` bytes or elements in one go.
local function charge(size)
  if size > 1000 then
    looks = looks - size / STEP
    look()
  end
end

local function going(...)
  if stopped then error(stopped, 0) end
  return ...
end

-- Replies and arguments as RESP -------------------------------------------------------------------

local function decode(text, at)
  local kind, last = byte(text, at), find(text, "\r\n", at, true)
  local line = sub(text, at + 1, last - 1)
  if kind == 36 then -- $
    local size = tonumber(line)
    if size < 0 then return false, last + 2 end
    return sub(text, last + 2, last + 1 + size), last + 4 + size
  elseif kind == 58 then -- :
    return tonumber(line), last + 2
  elseif kind == 42 then -- *
    local size, found = tonumber(line), {}
    if size < 0 then return false, last + 2 end
    at = last + 2
    for index = 1, size do found[index], at = decode(text, at) end
    return found, at
  elseif kind == 43 then -- +
    return {ok = line}, last + 2
  end
  return {err = line}, last + 2
end

local function line_of(text) return (patterns.c_gsub(tostring(text), "[\r\n]", " ")) end

local function encode(value, out, depth)
  local kind = type(value)
  if depth > DEPTH_MAX then out[#out + 1] = "-ERR reached lua stack limit\r\n"
  elseif kind == "string" then out[#out + 1] = "$" .. #value .. "\r\n" .. value .. "\r\n"
  elseif kind == "number" then
    if value ~= value or value >= 2^63 or value < -2^63 then
      out[#out + 1] = ":-9223372036854775808\r\n"
    else
      value = value < 0 and -floor(-value) or floor(value)
      out[#out + 1] = format(":%.0f\r\n", value == 0 and 0 or value)
    end
  elseif kind == "boolean" then out[#out + 1] = value and ":1\r\n" or "$-1\r\n"
  elseif kind ~= "table" then out[#out + 1] = "$-1\r\n"
  else
    local err, ok, double = rawget(value, "err"), rawget(value, "ok"), rawget(value, "double")
    if type(err) == "string" then out[#out + 1] = "-" .. line_of(err) .. "\r\n"
    elseif type(ok) == "string" then out[#out + 1] = "+" .. line_of(ok) .. "\r\n"
    elseif type(double) == "number" then
      encode(format("%.17g", double), out, depth + 1)
    else
      local head, size = #out + 1, 0
      out[head] = ""
      while rawget(value, size + 1) ~= nil do
        size = size + 1
        encode(rawget(value, size), out, depth + 1)
      end
      out[head] = "*" .. size .. "\r\n"
    end
  end
end

-- redis.* -----------------------------------------------------------------------------------------

local function ask(...)
  local size = select("#", ...)
  if size == 0 then
    return {err = "ERR Please specify at least one argument for this redis lib call"}
  end
  local words = {...}
  for index = 1, size do
    local word = words[index]
    if type(word) == "number" then words[index] = format("%.17g", word)
    elseif type(word) ~= "string" then
      return {err = "ERR Lua redis lib command arguments must be strings or integers"}
    end
  end
  local reply
  if size <= AT_ONCE_MAX then reply = command(unpack(words, 1, size))
  else
    for index = 1, size do
      local word = words[index]
      words[index] = "$" .. #word .. "\r\n" .. word .. "\r\n"
    end
    reply = long_command("*" .. size .. "\r\n" .. concat(words))
  end
  if type(reply) ~= "string" then -- the script must not go on: scripts.py says why
    stopped = "command"
    error(stopped, 0)
  end
  return (decode(reply, 1))
end

local function is_error(reply) return type(reply) == "table" and rawget(reply, "err") end

local redis = {
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_ALL = 3, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_NONE = 0,
  REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 0x0007000f,
  pcall = ask,
}

function redis.call(...)
  local reply = ask(...)
  if is_error(reply) then error(reply, 0) end
  return reply
end

function redis.error_reply(text)
  if type(text) ~= "string" then error({err = "ERR wrong number or type of arguments"}, 0) end
  if byte(text) == 45 then return {err = sub(text, 2)} end
  return {err = find(text, " ", 1, true) and text or "ERR " .. text}
end

function redis.status_reply(text)
  if type(text) ~= "string" then error({err = "ERR wrong number or type of arguments"}, 0) end
  return {ok = text}
end

function redis.sha1hex(...)
  if select("#", ...) ~= 1 then error({err = "ERR wrong number of arguments"}, 0) end
  return sha1hex(tostring((...)))
end

function redis.log(level, ...)
  if select("#", ...) == 0 then
    error({err = "ERR redis.log() requires two arguments or more."}, 0)
  end
  if type(level) ~= "number" or level < 0 or level > 3 then
    error({err = "ERR Invalid log level."}, 0)
  end
  local words = {...}
  for index = 1, #words do words[index] = tostring(words[index]) end
  log(level, sub(concat(words, " "), 1, 1024))
end

function redis.setresp(version)
  if version ~= 2 then error({err = "ERR RESP version must be 2 at an edge."}, 0) end
end

function redis.set_repl() end
function redis.replicate_commands() return true end
function redis.breakpoint() return false end

-- Libraries ---------------------------------------------------------------------------------------

local strings = {char = string.char}
for _, name in next, {"byte", "format", "len", "lower", "reverse", "sub", "upper"} do
  local run = string[name]
  strings[name] = function(text, ...)
    if type(text) == "string" then charge(#text) end
    return run(text, ...)
  end
end

function strings.rep(text, count)
  text, count = tostring(text), tonumber(count) or 0
  if #text == 0 or count < 1 then return "" end
  if #text * count > STRING_MAX then error("string.rep: the string would be too long", 2) end
  return rep(text, count)
end

function strings.find(text, pattern, init, plain)
  text, pattern = tostring(text), tostring(pattern)
  if plain or not patterns.is_pattern(pattern) then
    init = tonumber(init) or 1
    if init < 0 then init = init + #text + 1 end
    if init < 1 then init = 1 end
    local at = find_plain(text, pattern, init - 1)
    if at < 0 then return nil end
    return at + 1, at + #pattern
  end
  return patterns.find(text, pattern, init)
end

strings.match, strings.gmatch, strings.gsub = patterns.match, patterns.gmatch, patterns.gsub

local tables = {getn = table.getn, foreach = table.foreach, foreachi = table.foreachi}
for _, name in next, {"concat", "insert", "remove"} do
  local run = table[name]
  tables[name] = function(list, ...)
    if type(list) == "table" then charge(#list) end
    return run(list, ...)
  end
end

-- C would compare millions of strings between two looks at the budget.
function tables.sort(list, less)
  return sort(list, less or function(a, b) return a < b end)
end

local shielded = setmetatable({}, {__mode = "k"})

local function refuse_change(_, _, _, level)
  error("Attempt to modify a readonly table", level or 2)
end

local function shield(contents)
  local made = setmetatable(
    {}, {__index = contents, __newindex = refuse_change, __metatable = false})
  shielded[made] = true
  return made
end

local bit = {}
for name, run in next, bits do
  local is_many = name == "band" or name == "bor" or name == "bxor"
  local function whole(value)
    value = tonumber(value)
    if not value or value ~= value or value >= 2^53 or value <= -2^53 then
      error("bad argument to '" .. name .. "' (number expected)", 3)
    end
    return floor(value)
  end
  if name == "tobit" or name == "bnot" or name == "bswap" then
    bit[name] = function(value) return run(whole(value)) end
  else
    bit[name] = function(value, ...)
      value = whole(value)
      if not is_many then return run(value, whole((...))) end
      for index = 1, select("#", ...) do value = run(value, whole((select(index, ...)))) end
      return run(value, name == "bxor" and 0 or value)
    end
  end
end

function bit.tohex(value, digits)
  digits = tonumber(digits) or 8
  local text = format("%08x", bits.tobit(tonumber(value) or 0) % 2^32)
  if digits < 0 then text, digits = text:upper(), -digits end
  return sub(text, -(digits > 8 and 8 or digits))
end

local maths = {}
for name, value in next, math do maths[name] = value end

local base = {
  _VERSION = _VERSION, assert = assert, error = error, gcinfo = gcinfo,
  ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal,
  rawget = rawget, select = select, setmetatable = setmetatable, tonumber = tonumber,
  tostring = tostring, type = type, unpack = unpack,
  bit = shield(bit), cjson = shield(json), cmsgpack = shield(msgpack), math = shield(maths),
  redis = shield(redis), string = shield(strings), table = shield(tables),
}

-- Of what Python has put here, a script may touch nothing.
function base.getmetatable(value)
  local kind = type(value)
  if kind ~= "table" and kind ~= "string" then return nil end
  return getmetatable(value)
end

function base.collectgarbage(option)
  if option == nil or option == "collect" then return 0 end
  if option == "count" then return collectgarbage("count") end
  error("collectgarbage: only 'count' and 'collect' are here", 2)
end

function base.rawset(into, key, value)
  if shielded[into] then refuse_change(into, key, value, 3) end
  return rawset(into, key, value)
end

function base.pcall(...) return going(pcall(...)) end
function base.xpcall(...) return going(xpcall(...)) end

local world = setmetatable({}, {__index = base, __newindex = refuse_change, __metatable = false})
shielded[world] = true
base._G = world
setmetatable(base, {__index = function(_, name)
  -- Level 2 is the script's.
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end})

local function compile(source, name)
  -- Compiled code is not verified in Lua 5.1.
  if byte(source) == 27 then return nil, name .. ": binary code is not allowed" end
  local run, problem = loadstring(source, name)
  if run then setfenv(run, world) end
  return run, problem
end

function base.loadstring(source, name)
  if type(source) ~= "string" then error("loadstring: a string is expected", 2) end
  return compile(source, type(name) == "string" and name or source)
end

function base.load(piece, name)
  if type(piece) ~= "function" then error("load: a function is expected", 2) end
  local pieces = {}
  while true do
    local part = piece()
    if type(part) ~= "string" or part == "" then break end
    pieces[#pieces + 1] = part
  end
  return compile(concat(pieces), type(name) == "string" and name or "=(load)")
end

local of_strings = getmetatable("")
of_strings.__index, of_strings.__metatable = strings, false

-- Running -----------------------------------------------------------------------------------------

local compiled = {}

local function handler(problem)
  is_running = false
  if stopped then return stopped end
  if type(problem) ~= "table" then problem = {err = "ERR " .. tostring(problem)} end
  local level, info = 2, nil
  repeat
    info = getinfo(level, "Sl")
    level = level + 1
  until not info or info.source == "@user_script"
  return {err = tostring(rawget(problem, "err") or "ERR unknown error"), line = info and info.currentline}
end

local function guarded(run, budget, seconds, on_error)
  is_running, stopped, looks, deadline = true, nil, budget / STEP, clock() + seconds
  sethook(look, "", STEP)
  local is_fine, found = xpcall(function()
    run()
    is_running = false
  end, on_error)
  is_running = false
  sethook()
  return is_fine, found
end

local api = {}

-- Returns nil, or why not.
function api.load(sha, source, budget, seconds)
  local problem
  local is_fine = guarded(function()
    compiled[sha], problem = compile(source, "@user_script")
  end, budget, seconds, handler)
  if not is_fine then return "not enough memory" end
  return problem
end

function api.forget() compiled = {} end

-- Returns what became of it ("done", "failed", or why it was stopped), a reply and a line.
function api.run(sha, words, budget, seconds)
  local out = {}
  local is_fine, problem = guarded(function()
    local both = decode(words, 1)
    rawset(base, "KEYS", both[1])
    rawset(base, "ARGV", both[2])
    encode(compiled[sha](), out, 0)
    out = concat(out)
  end, budget, seconds, handler)
  rawset(base, "KEYS", nil)
  rawset(base, "ARGV", nil)
  if is_fine then return "done", out, 0 end
  if stopped then return stopped, "", 0 end
  if type(problem) ~= "table" then return "memory", tostring(problem), 0 end
  return "failed", problem.err, problem.line or 0
end

return api
