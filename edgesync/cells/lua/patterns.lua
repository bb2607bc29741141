-- Lua's patterns, matched in C where that takes few steps for certain, and otherwise here, where
-- each step counts against the script's budget: C may backtrack for hours, and recurses without
-- a limit.

local byte, sub, find, gsub = string.byte, string.sub, string.find, string.gsub
local c_match, c_gmatch, concat, unpack = string.match, string.gmatch, table.concat, unpack
local error, type, tostring, tonumber = error, type, tostring, tonumber

local C_STEPS_MAX = 200000
local CAPTURES_MAX = 32
local OPEN, POSITION = -1, -2
local CLASSES = {}
for letter in ("acdlpsuwxz"):gmatch(".") do
  CLASSES[letter:byte()], CLASSES[letter:upper():byte()] = "%" .. letter, "%" .. letter:upper()
end
local SPECIAL = "[%^%$%*%+%?%.%(%[%%%-]"

local function is_pattern(pattern) return find(pattern, SPECIAL) ~= nil end

-- Whether C needs few steps whatever the text is.
local function is_cheap(text, pattern)
  if #pattern > 1000 then return false end
  local _, loops = gsub(pattern, "[%*%+%-%?]", "")
  local _, pairs_of = gsub(pattern, "%%[bf]", "")
  loops = loops + pairs_of
  return loops <= 12 and (#text + 1) ^ (loops + 1) * (#pattern + 1) <= C_STEPS_MAX
end

local function class_end(p, at)
  local one = byte(p, at)
  if one == nil then error("malformed pattern", 0) end
  at = at + 1
  if one == 37 then -- %
    if at > #p then error("malformed pattern (ends with '%')", 0) end
    return at + 1
  elseif one == 91 then -- [
    if byte(p, at) == 94 then at = at + 1 end
    repeat
      if at > #p then error("malformed pattern (missing ']')", 0) end
      local part = byte(p, at)
      at = at + 1
      if part == 37 then at = at + 1 end
    until byte(p, at) == 93
    return at + 1
  end
  return at
end

local function is_in_class(one, class)
  local name = CLASSES[class]
  if name then return find(string.char(one), name) ~= nil end
  return one == class
end

local function is_in_set(one, p, at, last)
  local found = true
  at = at + 1
  if byte(p, at) == 94 then found, at = false, at + 1 end
  while at < last do
    local part = byte(p, at)
    if part == 37 then
      if is_in_class(one, byte(p, at + 1)) then return found end
      at = at + 2
    elseif byte(p, at + 1) == 45 and at + 2 < last then
      if part <= one and one <= byte(p, at + 2) then return found end
      at = at + 3
    else
      if part == one then return found end
      at = at + 1
    end
  end
  return not found
end

local function is_single(s, at, p, from, past)
  local one = byte(s, at)
  if one == nil then return false end
  local kind = byte(p, from)
  if kind == 46 then return true end
  if kind == 37 then return is_in_class(one, byte(p, from + 1)) end
  if kind == 91 then return is_in_set(one, p, from, past - 1) end
  return kind == one
end

local match

local function captured(s, captures, index)
  local size = captures[index].size
  if size == OPEN then error("unfinished capture", 0) end
  if size == POSITION then return captures[index].at end
  return sub(s, captures[index].at, captures[index].at + size - 1)
end

local function balanced(s, at, p, from)
  local first, last = byte(p, from), byte(p, from + 1)
  if not last then error("unbalanced pattern", 0) end
  if byte(s, at) ~= first then return nil end
  local depth = 1
  for here = at + 1, #s do
    local one = byte(s, here)
    if one == last then
      depth = depth - 1
      if depth == 0 then return here + 1 end
    elseif one == first then depth = depth + 1 end
  end
  return nil
end

local function opened(s, at, p, from, captures, size)
  if #captures >= CAPTURES_MAX then error("too many captures", 0) end
  captures[#captures + 1] = {at = at, size = size}
  local found = match(s, at, p, from, captures)
  if not found then captures[#captures] = nil end
  return found
end

local function closed(s, at, p, from, captures)
  for index = #captures, 1, -1 do
    local one = captures[index]
    if one.size == OPEN then
      one.size = at - one.at
      local found = match(s, at, p, from, captures)
      if not found then one.size = OPEN end
      return found
    end
  end
  error("invalid pattern capture", 0)
end

local function frontier(s, at, p, from)
  if byte(p, from) ~= 91 then error("missing '[' after '%f' in pattern", 0) end
  local past = class_end(p, from)
  local before, one = at == 1 and 0 or byte(s, at - 1), byte(s, at) or 0
  if not is_in_set(before, p, from, past - 1) and is_in_set(one, p, from, past - 1) then return past end
  return nil
end

-- Returns the place behind the match, or nil.
function match(s, at, p, from, captures)
  while true do
    local kind = byte(p, from)
    if kind == nil then return at end
    if kind == 40 then -- (
      if byte(p, from + 1) == 41 then return opened(s, at, p, from + 2, captures, POSITION) end
      return opened(s, at, p, from + 1, captures, OPEN)
    elseif kind == 41 then return closed(s, at, p, from + 1, captures)
    elseif kind == 36 and from == #p then return at == #s + 1 and at or nil
    end
    local escaped = kind == 37 and byte(p, from + 1) or 0
    if escaped == 98 then -- %b
      at = balanced(s, at, p, from + 2)
      if not at then return nil end
      from = from + 4
    elseif escaped == 102 then -- %f
      from = frontier(s, at, p, from + 2)
      if not from then return nil end
    elseif escaped >= 48 and escaped <= 57 then -- %1
      local one = captures[escaped - 48]
      if not one or one.size == OPEN then error("invalid capture index", 0) end
      local text = captured(s, captures, escaped - 48)
      if sub(s, at, at + #text - 1) ~= text then return nil end
      at, from = at + #text, from + 2
    else
      local past = class_end(p, from)
      local suffix = byte(p, past)
      if suffix == 63 then -- ?
        if is_single(s, at, p, from, past) then
          local found = match(s, at + 1, p, past + 1, captures)
          if found then return found end
        end
        from = past + 1
      elseif suffix == 42 or suffix == 43 then -- * +
        local count = 0
        while is_single(s, at + count, p, from, past) do count = count + 1 end
        for more = count, suffix == 43 and 1 or 0, -1 do
          local found = match(s, at + more, p, past + 1, captures)
          if found then return found end
        end
        return nil
      elseif suffix == 45 then -- -
        while true do
          local found = match(s, at, p, past + 1, captures)
          if found then return found end
          if not is_single(s, at, p, from, past) then return nil end
          at = at + 1
        end
      else
        if not is_single(s, at, p, from, past) then return nil end
        at, from = at + 1, past
      end
    end
  end
end

local function all_captured(s, captures, first, past, is_whole)
  if #captures == 0 and is_whole then return {sub(s, first, past - 1)} end
  local found = {}
  for index = 1, #captures do found[index] = captured(s, captures, index) end
  return found
end

-- Returns where the next match begins, where it ends and its captures.
local function search(s, p, at)
  local is_anchored = byte(p) == 94
  repeat
    local captures = {}
    local past = match(s, at, p, is_anchored and 2 or 1, captures)
    if past then return at, past, captures end
    at = at + 1
  until at > #s + 1 or is_anchored
  return nil
end

local function start_of(text, init)
  init = tonumber(init) or 1
  if init < 0 then init = init + #text + 1 end
  return init < 1 and 1 or init > #text + 1 and #text + 1 or init
end

local patterns = {is_pattern = is_pattern, c_gsub = gsub}

function patterns.find(text, pattern, init)
  if is_cheap(text, pattern) then return find(text, pattern, init) end
  local first, past, captures = search(text, pattern, start_of(text, init))
  if not first then return nil end
  return first, past - 1, unpack(all_captured(text, captures, first, past, false))
end

function patterns.match(text, pattern, init)
  text, pattern = tostring(text), tostring(pattern)
  if is_cheap(text, pattern) then return c_match(text, pattern, init) end
  local first, past, captures = search(text, pattern, start_of(text, init))
  if not first then return nil end
  return unpack(all_captured(text, captures, first, past, true))
end

function patterns.gmatch(text, pattern)
  text, pattern = tostring(text), tostring(pattern)
  if is_cheap(text, pattern) then return c_gmatch(text, pattern) end
  local at = 1
  return function()
    if at > #text + 1 then return nil end
    local first, past, captures = search(text, pattern, at)
    if not first then return nil end
    at = past == first and past + 1 or past
    return unpack(all_captured(text, captures, first, past, true))
  end
end

local function replacement(text, by, captures, first, past)
  local whole = sub(text, first, past - 1)
  if type(by) == "string" then
    return (gsub(by, "%%(.)", function(one)
      if one == "0" then return whole end
      local index = tonumber(one)
      if not index then return one end
      if index == 1 and #captures == 0 then return whole end
      if not captures[index] then error("invalid capture index", 0) end
      return captured(text, captures, index)
    end))
  end
  local found = all_captured(text, captures, first, past, true)
  local made
  if type(by) == "table" then made = by[found[1]] else made = by(unpack(found)) end
  if not made then return whole end
  if type(made) ~= "string" and type(made) ~= "number" then
    error("invalid replacement value (a " .. type(made) .. ")", 0)
  end
  return tostring(made)
end

function patterns.gsub(text, pattern, by, most)
  text, pattern = tostring(text), tostring(pattern)
  if type(by) == "number" then by = tostring(by) end
  if type(by) ~= "string" and type(by) ~= "table" and type(by) ~= "function" then
    error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
  end
  if is_cheap(text, pattern) then return gsub(text, pattern, by, most) end
  local out, count, at = {}, 0, 1
  most = tonumber(most) or #text + 1
  while count < most do
    local first, past, captures = search(text, pattern, at)
    if not first then break end
    count = count + 1
    out[#out + 1] = sub(text, at, first - 1)
    out[#out + 1] = replacement(text, by, captures, first, past)
    if past == first then out[#out + 1] = sub(text, first, first) end
    at = past == first and past + 1 or past
    if at > #text + 1 or byte(pattern) == 94 then break end
  end
  out[#out + 1] = sub(text, at)
  return concat(out), count
end

return patterns
